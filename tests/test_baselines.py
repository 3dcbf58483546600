"""The comparison at equal time runs end to end with whatever arms are installed, names those that are not, goes on after an interruption, and refuses what it does not know."""

import json
import math
import re
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from cdrl.config import get_config
from cdrl.lab.runs import read_distance

TINY = dict(
    minutes=0.01,
    search_minutes=0.005,
    seeds=[0],
    search=[1.0],
    snapshots=2,
    n_progress=64,
    n_samples=64,
    n_reference=64,
    n_more=5,
    draws=2,
    drl={"DRL, K 5": dict(n_langevin=5), "DRL, T 3, K 12": dict(n_langevin=12, n_levels=3)},
)
QUICK = dict(n_levels=2, n_langevin=2, init_channels=8, init_attention=[])
OURS = ["CDRL", "DRL, K 5", "DRL, T 3, K 12", "DDPM"]
PEERS = {
    "ebmkit DRL": ("ebmkit", "ebm"),
    "torchebm EM": ("torchebm", "torchebm"),
    "torchebm PCD": ("torchebm", "torchebm"),
}  # arm: package, its module


def read(run):
    return json.loads((run / "metrics.json").read_text())


@pytest.mark.parametrize(
    "dataset, metric",
    [("digits_small", "fd_classifier"), pytest.param("checkerboard", "histogram_kl", marks=pytest.mark.slow)],
)
def test_all_arms_that_are_installed(notebook, dataset, metric):
    small = dataset == "digits_small"
    ours = [*OURS, "DDPM, CDRL's U-Net"] if small else OURS
    run = (
        notebook("baselines", dataset=dataset, **TINY, **(dict(changes=QUICK) if small else {}))
        / f"baselines-{dataset.removesuffix('_small')}"
    )
    metrics, curves = read(run), pd.read_csv(run / "curves.csv")
    missing = {a: package for a, (package, module) in PEERS.items() if find_spec(module) is None}
    arms = ours + [a for a in PEERS if a not in missing]
    by = {r["arm"]: r for r in metrics["results"]}
    assert list(by) == arms and metrics["absent"] == missing and metrics["metric"] == metric
    assert all(r["diverged"] == 0 and r["steps"] >= 1 for r in by.values())
    assert all(0 <= r["precision_classifier" if dataset == "digits_small" else "inside"] <= 1 for r in by.values())
    assert all((curves.arm == a).sum() == TINY["snapshots"] for a in arms)
    assert all(r["minutes"] >= TINY["minutes"] and r["cdrl_ms"] > 0 for r in by.values())
    assert (
        by["CDRL"]["parameters"] == by["DRL, K 5"]["parameters"] + by[ours[-1]]["parameters"]
    )  # the same two networks
    T, K = (2, 2) if small else (6, get_config(dataset).n_langevin)
    assert by["CDRL"]["evaluations"] == by["DDPM"]["evaluations"] == by[ours[-1]]["evaluations"] and by[
        "DRL, T 3, K 12"
    ]["evaluations"] - by["CDRL"]["evaluations"] == 3 * 12 - T * (K + 1)
    assert {(w["arm"], w["evaluations"]) for w in metrics["otherwise"] if w["arm"] in ours} == {
        ("CDRL", T),
        *((a, n) for a in ours if "DDPM" in a for n in (T, 5)),
    }  # one a level; n_more
    assert all(
        w["evaluations"] == by[w["arm"]]["evaluations"] - (w["arm"] == "ebmkit DRL")
        for w in metrics["otherwise"]
        if w["arm"] not in ours
    )
    assert set(metrics["verdicts"]) == {
        f"CDRL / {a}" for a in [*arms, *(f"{a}, 5 evaluations" for a in ours if "DDPM" in a)] if a != "CDRL"
    }
    more = next(w for w in metrics["otherwise"] if w["arm"] == "DDPM" and w["way"].startswith("more"))
    assert metrics["verdicts"]["CDRL / DDPM, 5 evaluations"]["theirs"]["mean"] == pytest.approx(
        more["mean"]
    ) and metrics["verdicts"]["CDRL / DDPM"]["theirs"]["mean"] == pytest.approx(by["DDPM"]["value"])
    assert (
        metrics["verdicts"]["CDRL / DRL, K 5"]["at_most"] == 0.45 and metrics["verdicts"]["CDRL / DDPM"]["at_most"] == 1
    )
    assert (
        (run / "figures/curves.png").exists()
        and (run / "figures/samples.png").exists()
        and (run / "manifest.json").exists()
    )


def test_resumed_with_an_arm_that_diverged(notebook):
    """The results of finished parts are changed by hand: a resumed run must take them as they are, and judge by them."""
    run = notebook("baselines", dataset="digits_small", arms=["CDRL", "DRL, K 5", "DDPM"], **TINY) / "baselines-digits"
    parts = json.loads((run / "parts.json").read_text())
    assert [q["key"][:2] for q in parts] == [
        [what, a] for what in ("search", "train") for a in ("CDRL", "DRL, K 5", "DDPM")
    ]
    finished = {q["key"][1]: q for q in parts if q["key"][0] == "train"}
    finished["CDRL"]["value"], finished["DRL, K 5"]["value"] = 4.0, 10.0
    for row, ours, theirs in zip(range(TINY["snapshots"]), (9.0, 5.0), (8.0, 12.0)):
        finished["CDRL"]["curve"][row]["fd_classifier"], finished["DRL, K 5"]["curve"][row]["fd_classifier"] = (
            ours,
            theirs,
        )
    for k in ("steps", "parameters", "evaluations", "otherwise", "shown", "minutes"):
        finished["DDPM"].pop(k)
    finished["DDPM"].update(diverged="the loss is nan after 7 iterations", value=float("nan"), curve=[])
    (run / "metrics.json").unlink()
    (run / "parts.json").write_text(json.dumps(parts))
    notebook("baselines", dataset="digits_small", arms=["CDRL", "DRL, K 5", "DDPM"], resume=True, **TINY)
    metrics, ddpm, drl = read(run), read(run)["verdicts"]["CDRL / DDPM"], read(run)["verdicts"]["CDRL / DRL, K 5"]
    assert len(json.loads((run / "parts.json").read_text())) == len(parts)
    assert drl["ratio"] == pytest.approx(0.4) and drl["holds"] and drl["ahead_since"] == pytest.approx(TINY["minutes"])
    assert ddpm["ratio"] is None and ddpm["diverged"] == 1 and ddpm["holds"] and ddpm["seeds_better"] == 1
    row = next(r for r in metrics["results"] if r["arm"] == "DDPM")
    assert row["value"] is None and row["diverged"] == 1 and "nan after 7" in row["reason"]


def test_rates_of_the_search_and_those_given_up():
    """Seeds take turns; an arm with a seed that diverges starts again at a factor lower by the root of 3, down to the lowest of the search; an infinite distance of points is no divergence."""
    source = next(
        c.source for c in nbformat.read(ROOT / "nbs/baselines.ipynb", as_version=4).cells if "again = True" in c.source
    )
    limits, order, kept = (
        dict(sound=9.0, late=2.0, hopeless=0.1, early=9.0),
        [],
        {},
    )  # the largest factor that seed 1 survives

    def once(key, work):
        return kept.setdefault(key, work()) if key not in kept else kept[key]

    def train_one(arm, seed, factor, seconds, snapshots):
        order.append((arm, seed, factor))
        return dict(
            diverged="far" if seed == 1 and factor > limits[arm] else "",
            value=math.inf if arm == "early" else 1 / factor,
            inside=factor,
            steps=1,
            minutes=1.0,
        )

    names = dict(
        names=list(limits),
        p=dict(search=[0.3, 3.0, 1.0], seeds=[0, 1], search_minutes=1, minutes=1, snapshots=1, dataset="digits"),
        folder=SimpleNamespace(once=once),
        SEARCH_SEED=1000,
        train_one=train_one,
        label="KL",
        np=np,
        read_distance=read_distance,
        seconds_per_step=lambda *a: 0.1,
        recipe=None,
        train=None,
        where="cpu",
    )
    exec(source, names)
    assert names["factors"] == dict(sound=3.0, late=1.732, hopeless=0.3, early=3.0) and names["found"] == dict(
        sound=3.0, late=3.0, hopeless=3.0, early=3.0
    )
    assert [(r["arm"], r["seed"], bool(r["diverged"])) for r in names["runs"]] == [
        (a, s, (a, s) == ("hopeless", 1)) for a in limits for s in (0, 1)
    ]
    trained = [o for o in order if o[1] != 1000]
    assert (
        trained[:8] == [(a, s, 3.0) for s in (0, 1) for a in limits]
        and ("late", 0, 1.732) in trained[8:]
        and len(set(trained)) == len(trained)
    )


def test_missing_package_is_named(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "ebm", None)  # as if it were not installed
    assert re.search(
        r"'ebmkit DRL' needs the package ebmkit.*\[bench\]", refused("baselines", arms=["CDRL", "ebmkit DRL"], **TINY)
    )


@pytest.mark.parametrize(
    "parameters, message",
    [
        (dict(arms=["VAE"]), "arm 'VAE' is unknown; choose from CDRL"),
        (dict(arms=[]), "leave it out for all arms"),
        (dict(minutes="long"), "minutes is 'long'"),
        (dict(search=[0]), "positive factors"),
        (dict(seeds=[1000]), "that of the search"),
        (dict(n_progress=0), "n_progress is 0"),
        (dict(draws=0), "draws is 0"),
        (dict(drl={"energy": {}}), "names start with DRL"),
        (dict(drl={"DRL": dict(K=2)}), "'K' is unknown"),
        (dict(drl={"DRL": dict(n_langevin=0)}), "takes no Langevin steps"),
        (dict(changes=dict(K=2)), "'K' is unknown"),
        (dict(minute=2), "did you mean minutes"),
    ],
)
def test_refused(refused, parameters, message):
    assert message in refused("baselines", **{**TINY, **parameters})
