"""The likelihood experiment runs end to end; its mathematics is checked in nbs/11c_bounds, 11d_annealing and
11e_likelihood."""

import json
import math

import pytest

from cdrl.checkpoints import Checkpoints
from cdrl.config import get_config
from cdrl.datasets import load_dataset
from cdrl.trainer import Trainer

TINY = dict(
    n_images=4,
    n_samples=2,
    n_importance=[1, 2],
    n_anneal=[4],
    n_settle=2,
    n_marginal=4,
    n_components=[2],
    ddpm_steps=2,
    ddpm_levels=4,
)


@pytest.fixture
def training(tmp_path):
    """A run with a checkpoint in each phase."""
    trainer = Trainer(get_config("digits", steps=4, warm_start=0.5, batch_size=4), load_dataset("digits"))
    kept = Checkpoints(tmp_path / "checkpoints", keep=2)
    trainer.fit(callbacks=[(1, lambda trainer: trainer.step in (1, 4) and kept.save(trainer))])
    return tmp_path


@pytest.mark.long
def test_three_densities_and_simpler_models(notebook, training):
    given = dict(dataset="digits_small", model="reports/digits/model")  # a preset whose name is not its dataset's
    run = notebook("likelihood", **TINY, **given, training=str(training)) / "likelihood-digits_small"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["unit"] == "bits/dim"
    rows = {(r["density"], r["set"], r["setting"]): r for r in metrics["rows"]}
    assert {d for d, _, _ in rows} >= {"sampler", "ladder"}
    assert all(math.isfinite(r["estimate"]) for r in rows.values())
    for density in ("sampler", "sampler, fitted way"):
        both = rows[density, "samples", 2]
        assert both["low"] <= both["high"]  # on its own samples both sides are known
    over = {(r["step"], r["phase"], r["density"]) for r in metrics["training"]}
    assert {(step, phase) for step, phase, _ in over} == {(1, "warm start"), (4, "recovery")}
    assert {density for _, _, density in over} == {"sampler", "sampler, fitted way", "marginal"}


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(n_images=1), "at least 2"),
        (dict(n_anneal=5), "give a list"),
        (dict(moves=["walk"]), "choose from model"),
        (dict(training="nowhere"), "has no checkpoints"),
    ],
)
def test_refused(refused, wrong, message):
    assert message in refused("likelihood", **{**TINY, **wrong})
