"""The experiment with long chains runs end to end; what it measures is checked in nbs/26d_long_chains.ipynb."""

import json

import pytest

TINY = dict(n_chains=2, marks=[5, 10], n_reference=20, n_drl=2, drl_steps=[1, 2])


def test_every_level_density_start_and_kind(notebook):
    run = notebook("chains", **TINY) / "chains-digits"
    rows = json.loads((run / "metrics.json").read_text())["rows"]
    found = {(r["start"], r["level"], r["density"], r["kind"], r["steps"]) for r in rows}
    assert len(found) == len(rows) == 2 * 5 * 3 * 3  # starts, levels with both densities but the top, kinds, looks
    assert all(r["correlation"] > 0.999 for r in rows if r["steps"] == 0)
    assert {p.name for p in (run / "figures").iterdir()} >= {"chains-data.png", "pictures-samples.png", "drl.png"}


@pytest.mark.parametrize("wrong, message", [(dict(n_chains=1), "at least 2"), (dict(marks=[7]), "multiples")])
def test_refused(refused, wrong, message):
    assert message in refused("chains", **{**TINY, **wrong})
