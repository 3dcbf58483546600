"""Chains through `torch.compile` give the numbers of the plain ones. Slow (the compiler runs): pytest -m slow."""
import shutil

import pytest
import torch

from cdrl.config import build_model, get_config
from cdrl.layers import frozen


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++") and not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("preset, shape", [("digits", (1, 8, 8)), ("checkerboard", (2,))])
def test_compiled_chains_are_the_plain_ones(preset, shape):
    torch.manual_seed(0)
    model = build_model(get_config(preset), shape, 0)
    y, t = torch.randn(32, *shape), torch.randint(6, (32,))
    with frozen(model.ebm):
        plain = model.target(t)(y)
        model.ebm.compile_chains()
        compiled = model.target(t)(y)
    for a, b in zip(plain, compiled): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
