"""The authors' checkpoint layout, and the reference numbers of tests/reference (see its README)."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from cdrl.ebm import value_and_grad
from cdrl.layers import frozen
from cdrl.model import CDRL

HERE = Path(__file__).parent / "reference"
PARITY, LAYOUT = (json.loads((HERE / f).read_text()) for f in ("parity_small.json", "layout.json"))


def weights_by_formula(layout):
    """The state dict that tests/reference/README.md defines: a sine per element, singular vectors for u and v."""
    state = {}
    for i, (key, shape) in enumerate(layout):
        j = np.arange(math.prod(shape), dtype=np.float64)
        w = np.sin(0.7 * i + 1.3 * j + 0.01 * (j % 97) * (j % 89))
        layer = key.split(".")[-2] if "." in key else ""
        if key.endswith(".g") or (layer.startswith("norm") and key.endswith(".weight")):
            w = 1 + 0.1 * w
        elif len(shape) >= 2:
            w = w / math.sqrt(math.prod(shape[1:]))
        else:
            w = 0.1 * w
        state[key] = torch.tensor(w.reshape(shape), dtype=torch.float32)
    for key in [k for k in state if k.endswith("weight_orig")]:
        U, _, Vh = torch.linalg.svd(state[key].flatten(1).double(), full_matrices=False)
        u, v = U[:, 0], Vh[0]
        sign = torch.sign(u[u.abs().argmax()])
        state[key[:-4] + "u"], state[key[:-4] + "v"] = (sign * u).float(), (sign * v).float()
    return state


def authors_file(pi, p, pi_ema=None, p_ema=None):
    """A dict like theirs: DistributedDataParallel's prefix, moving averages as plain lists without the buffers."""

    def ddp(state):
        return {f"module.{k}": v for k, v in state.items()}

    def ema(state):
        averaged = [v for k, v in state.items() if not k.endswith(("weight_u", "weight_v"))]
        return dict(decay=0.9999, num_updates=1, collected_params=None, shadow_params=averaged)

    return dict(
        pi_state_dict=ddp(pi),
        p_state_dict=ddp(p),
        pi_ema_state_dict=ema(pi_ema or pi),
        p_ema_state_dict=ema(p_ema or p),
        pi_optimizer={},
        p_optimizer={},
        pi_lr_scheduler={},
        p_lr_scheduler={},
    )


@pytest.fixture(scope="module")
def small():
    return weights_by_formula(PARITY["layout"]["pi"]), weights_by_formula(PARITY["layout"]["p"])


@pytest.fixture(scope="module")
def x():
    j = np.arange(3 * 3 * 32 * 32, dtype=np.float64)
    return torch.tensor(np.sin(0.37 * j + 0.002 * j * (j % 13)).reshape(3, 3, 32, 32), dtype=torch.float32)


def close(ours, theirs):
    torch.testing.assert_close(ours, torch.tensor(theirs), rtol=1e-4, atol=1e-4 * np.abs(theirs).mean())


@pytest.mark.parametrize("ema", [False, True])
def test_outputs_and_gradients_are_the_authors(tmp_path, small, x, ema):
    pi, p = small

    def zero(state):
        return {k: v if k.endswith(("weight_u", "weight_v")) else torch.zeros_like(v) for k, v in state.items()}

    # the other half is wrong on purpose
    file = authors_file(zero(pi), zero(p), pi, p) if ema else authors_file(pi, p, zero(pi), zero(p))
    torch.save(file, tmp_path / "small.pth.tar")
    model, lam = CDRL.from_official(tmp_path / "small.pth.tar", ema=ema), torch.tensor(PARITY["logsnr"])
    with frozen(model):
        f, grad = value_and_grad(lambda y: model.ebm(y, lam), x)
        g = model.initializer(x, lam)
    close(f, PARITY["ebm_output"])
    close(grad[:, 1, 5, ::8], PARITY["ebm_input_gradient_pick"])
    close(grad.abs().mean((1, 2, 3)), PARITY["ebm_input_gradient_abs_mean"])
    close(g[:, 2, 7, ::8], PARITY["initializer_output_pick"])
    close(g.abs().mean((1, 2, 3)), PARITY["initializer_output_abs_mean"])
    torch.testing.assert_close(g.mean((1, 2, 3)), torch.tensor(PARITY["initializer_output_mean"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name, n_class, n_blocks", [("cifar10", 0, 3), ("imagenet32_cond", 1000, 2)])
def test_full_size_layouts_load(tmp_path, name, n_class, n_blocks):
    layout = LAYOUT[name]
    pi, p = ({k: torch.randn(shape) * 0.01 for k, shape in layout[part]} for part in ("pi", "p"))
    for part, d in (("pi", pi), ("p", p)):
        assert [k for k in d if not k.endswith(("weight_u", "weight_v"))] == layout[f"{part}_ema_order"]
    torch.save(authors_file(pi, p), tmp_path / "x.pth.tar")
    model = CDRL.from_official(tmp_path / "x.pth.tar")
    assert (model.n_class, model.shape, model.config["initializer"]["n_blocks"]) == (n_class, (3, 32, 32), n_blocks)
    assert torch.equal(model.ebm.head.weight, pi["temb_final.weight"]) and model.n_langevin == 15
    if name == "cifar10":
        assert [sum(w.numel() for w in m.parameters()) for m in (model.ebm, model.initializer)] == [
            34_833_152,
            3_769_795,
        ]


def broken(small, what):
    pi, p = (dict(d) for d in small)
    file = authors_file(pi, p)
    if what == "missing key":
        del file["pi_state_dict"]["module.module_list.3.conv2.bias"]
    if what == "missing tensor":
        del file["p_state_dict"]["module.norm.weight"]
        file["p_ema_state_dict"] = file["p_ema_state_dict"] | {
            "shadow_params": file["p_ema_state_dict"]["shadow_params"][:-1]
        }
    if what == "extra key":
        file["p_state_dict"]["module.extra.weight"] = torch.zeros(1)
    if what == "shape":
        file["pi_state_dict"]["module.module_list.1.conv2.bias"] = torch.zeros(7)
    if what == "no part":
        del file["p_state_dict"]
    if what == "no ema":
        del file["pi_ema_state_dict"]
    if what == "short ema":
        file["pi_ema_state_dict"]["shadow_params"].pop()
    if what == "no sizes":
        del file["pi_state_dict"]["module.module_list.0.weight_orig"]
        file["pi_ema_state_dict"]["shadow_params"].pop()
    return file


@pytest.mark.parametrize(
    "what, ema, message",
    [
        ("missing key", False, "lacks the tensor for"),
        ("extra key", False, "extra.weight"),
        ("shape", False, r"module_list\.1\.conv2\.bias' has shape \(7,\); expected \(32,\)"),
        ("no part", True, "p_state_dict"),
        ("no ema", True, "pi_ema_state_dict"),
        ("short ema", True, "has .* tensors"),
        ("no sizes", False, r"module_list\.0\.weight_orig"),
        ("missing tensor", False, "lacks the tensor for 'norm.weight'"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, small, what, ema, message):
    torch.save(broken(small, what), tmp_path / "bad.pth.tar")
    with pytest.raises(ValueError, match=message):
        CDRL.from_official(tmp_path / "bad.pth.tar", ema=ema)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save(dict(pi_state_dict=Evil()), tmp_path / "evil.pth.tar")
    with pytest.raises(ValueError, match="read safely"):
        CDRL.from_official(tmp_path / "evil.pth.tar")
    assert not (tmp_path / "ran").exists()


def test_evaluate_runs_the_authors_checkpoint(here, tmp_path, small):
    from made_data import make_cifar10

    make_cifar10(tmp_path / "data")
    torch.save(authors_file(*small, *small), tmp_path / "small.pth.tar")
    run = (
        here(
            "evaluate",
            model=f"official:{tmp_path / 'small.pth.tar'}",
            dataset="cifar10",
            data=str(tmp_path / "data"),
            n_samples=8,
            n_reference=64,
            n_langevin=[1],
        )
        / "evaluate-cifar10"
    )
    metrics = json.loads((run / "metrics.json").read_text())
    assert (
        metrics["fd_lite0"] > 0
        and metrics["model"].startswith("official:")
        and metrics["sampler"]["n_langevin"] == 1
        and "64 of 100 training images of cifar10" in metrics["reference"]
    )
