"""The likelihood experiment runs end to end; its mathematics is checked in nbs/11c_bounds, 11d_annealing and
11e_likelihood."""

import json
import math

import pytest

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


@pytest.mark.long
def test_three_densities_and_simpler_models(notebook):
    run = notebook("likelihood", **TINY) / "likelihood-digits"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["unit"] == "bits/dim"
    rows = {(r["density"], r["set"], r["setting"]): r for r in metrics["rows"]}
    assert {d for d, _, _ in rows} >= {"sampler", "ladder"}
    assert all(math.isfinite(r["estimate"]) for r in rows.values())
    for density in ("sampler", "sampler, fitted way"):
        both = rows[density, "samples", 2]
        assert both["low"] <= both["high"]  # on its own samples both sides are known


@pytest.mark.parametrize(
    "wrong, message",
    [(dict(n_images=1), "at least 2"), (dict(n_anneal=5), "give a list"), (dict(moves=["walk"]), "choose from model")],
)
def test_refused(refused, wrong, message):
    assert message in refused("likelihood", **{**TINY, **wrong})
