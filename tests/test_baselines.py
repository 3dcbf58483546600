"""The comparison at equal time runs end to end with whatever arms are installed, names those that are not, goes on after an interruption, and refuses what it does not know."""
import json
import re
import sys
from importlib.util import find_spec

import pandas as pd
import pytest

from cdrl.config import get_config

TINY = dict(minutes=0.01, search_minutes=0.005, seeds=[0], search=[1.0], snapshots=2, n_progress=64, n_samples=64, n_reference=64, n_more=5, drl_k=12)
OURS = ["CDRL", "DRL", "DRL, K 12", "DDPM"]
PEERS = {"ebmkit DRL": ("ebmkit", "ebm"), "torchebm EM": ("torchebm", "torchebm"), "torchebm PCD": ("torchebm", "torchebm")}       # arm: package, its module


def read(run): return json.loads((run / "metrics.json").read_text())


@pytest.mark.parametrize("dataset, metric", [("digits_small", "fd_classifier"), pytest.param("checkerboard", "histogram_kl", marks=pytest.mark.slow)])
def test_all_arms_that_are_installed(notebook, dataset, metric):
    run = notebook("baselines", dataset=dataset, **TINY) / f"baselines-{dataset.removesuffix('_small')}"
    metrics, curves = read(run), pd.read_csv(run / "curves.csv")
    missing = {a: package for a, (package, module) in PEERS.items() if find_spec(module) is None}
    arms = OURS + [a for a in PEERS if a not in missing]
    by = {r["arm"]: r for r in metrics["results"]}
    assert list(by) == arms and metrics["absent"] == missing and metrics["metric"] == metric
    assert all(r["diverged"] == 0 and r["steps"] >= 1 for r in by.values())
    assert all(0 <= r["precision_classifier" if dataset == "digits_small" else "inside"] <= 1 for r in by.values())
    assert all((curves.arm == a).sum() == TINY["snapshots"] for a in arms)
    assert all(r["minutes"] >= TINY["minutes"] for a, r in by.items() if a not in OURS or a == "DDPM")                 # those without a plan fill the time
    assert all(r["steps"] <= r["planned"] for a, r in by.items() if a in OURS and a != "DDPM")
    assert by["CDRL"]["parameters"] == by["DRL"]["parameters"] + by["DDPM"]["parameters"]                               # the same two networks
    assert by["CDRL"]["evaluations"] == by["DDPM"]["evaluations"] and by["DRL, K 12"]["evaluations"] - by["DRL"]["evaluations"] == 6 * (12 - get_config(dataset).n_langevin)
    assert {(w["arm"], w["evaluations"]) for w in metrics["otherwise"]} == {("CDRL", 6), ("DDPM", 6), ("DDPM", 5)}      # T = 6 levels; n_more
    assert set(metrics["verdicts"]) == {f"CDRL / {a}" for a in arms if a != "CDRL"}
    assert metrics["verdicts"]["CDRL / DRL"]["at_most"] == 0.45 and metrics["verdicts"]["CDRL / DDPM"]["at_most"] == 1
    assert (run / "figures/curves.png").exists() and (run / "figures/samples.png").exists() and (run / "manifest.json").exists()


def test_resumed_with_an_arm_that_diverged(notebook):
    """The results of finished parts are changed by hand: a resumed run must take them as they are, and judge by them."""
    run = notebook("baselines", dataset="digits_small", arms=["CDRL", "DRL", "DDPM"], **TINY) / "baselines-digits"
    parts = json.loads((run / "parts.json").read_text())
    assert [q["key"][:2] for q in parts] == [[what, a] for a in ("CDRL", "DRL", "DDPM") for what in ("search", "train")]
    finished = {q["key"][1]: q for q in parts if q["key"][0] == "train"}
    finished["CDRL"]["value"], finished["DRL"]["value"] = 4.0, 10.0
    for row, ours, theirs in zip(range(TINY["snapshots"]), (9.0, 5.0), (8.0, 12.0)):
        finished["CDRL"]["curve"][row]["fd_classifier"], finished["DRL"]["curve"][row]["fd_classifier"] = ours, theirs
    for k in ("steps", "planned", "parameters", "evaluations", "otherwise", "shown", "minutes"): finished["DDPM"].pop(k)
    finished["DDPM"].update(diverged="the loss is nan after 7 iterations", value=float("nan"), curve=[])
    (run / "metrics.json").unlink(); (run / "parts.json").write_text(json.dumps(parts))
    notebook("baselines", dataset="digits_small", arms=["CDRL", "DRL", "DDPM"], resume=True, **TINY)
    metrics, ddpm, drl = read(run), read(run)["verdicts"]["CDRL / DDPM"], read(run)["verdicts"]["CDRL / DRL"]
    assert len(json.loads((run / "parts.json").read_text())) == len(parts)
    assert drl["ratio"] == pytest.approx(0.4) and drl["holds"] and drl["ahead_since"] == pytest.approx(TINY["minutes"])
    assert ddpm["ratio"] is None and ddpm["diverged"] == 1 and ddpm["holds"] and ddpm["seeds_better"] == 1
    row = next(r for r in metrics["results"] if r["arm"] == "DDPM")
    assert row["value"] is None and row["diverged"] == 1 and "nan after 7" in row["reason"]


def test_missing_package_is_named(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "ebm", None)                                                                       # as if it were not installed
    assert re.search(r"'ebmkit DRL' needs the package ebmkit.*\[bench\]", refused("baselines", arms=["CDRL", "ebmkit DRL"], **TINY))


@pytest.mark.parametrize("parameters, message", [(dict(arms=["VAE"]), "arm 'VAE' is unknown; choose from CDRL"), (dict(arms=[]), "leave it out for all arms"), (dict(minutes="long"), "minutes is 'long'"),
                                                 (dict(search=[0]), "positive factors"), (dict(seeds=[1000]), "that of the search"), (dict(n_progress=0), "n_progress is 0"), (dict(minute=2), "did you mean minutes")])
def test_refused(refused, parameters, message):
    assert message in refused("baselines", **{**TINY, **parameters})
