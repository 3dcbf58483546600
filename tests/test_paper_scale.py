"""The paper's presets at full network size, two steps and four samples, from files in the true formats. Slow: pytest -m slow tests/test_paper_scale.py (some minutes)."""

import json

import pytest
from made_data import MAKERS

from cdrl.model import CDRL


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["cifar10", "imagenet32", "celeba64", "cifar10_warm", "imagenet32_warm"])
def test_two_steps_and_four_samples(notebook, tmp_path, dataset):
    MAKERS[dataset.removesuffix("_warm")](tmp_path / "data")
    run = (
        notebook(
            "train",
            dataset=dataset,
            data=str(tmp_path / "data"),
            steps=2,
            batch_size=4,
            accumulate=2,
            n_samples=4,
            n_progress=2,
            n_reference=32,
            snapshots=1,
            **({"warm_start": 0.5} if dataset.endswith("_warm") else {}),
        )
        / dataset
    )
    metrics, model = json.loads((run / "metrics.json").read_text()), CDRL.from_pretrained(run / "model")
    assert (
        metrics["steps"] == 2 and metrics["n_samples"] == 4 and model.n_langevin == 15 and model.schedule.n_levels == 6
    )
    assert (model.n_class, model.shape) == dict(
        cifar10=(0, (3, 32, 32)), imagenet32=(1000, (3, 32, 32)), celeba64=(0, (3, 64, 64))
    )[dataset.removesuffix("_warm")]
    assert (model.base is not None) == dataset.endswith("_warm")  # of two steps, one warms up and one recovers
    if dataset.startswith("cifar10"):
        assert sum(p.numel() for p in model.ebm.parameters()) == 34_833_152
