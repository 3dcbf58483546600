"""The comparison at equal time runs end to end with the arms that are installed, and names those that are not; it goes
on after an interruption, and refuses what it does not know."""

import json
import math
import re
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from cdrl.config import get_config
from cdrl.guard import DivergenceError
from cdrl.lab.claims import Rival
from cdrl.lab.compare import Arm, Comparison, Judge, as_table
from cdrl.lab.parameters import json_ready
from cdrl.lab.results import baseline_rows
from cdrl.lab.rivals import missing_peers

TINY = dict(
    minutes=0.01,
    search_minutes=0.005,
    seeds=[0],
    search=[1.0],
    snapshots=2,
    n_progress=64,
    n_samples=64,
    n_reference=64,
    evaluations=[5],
    draws=2,
    drl={"DRL, K 5": dict(n_langevin=5), "DRL, T 3, K 12": dict(n_langevin=12, n_levels=3, level_weights=[])},
)
QUICK = dict(n_levels=2, n_langevin=2, init_channels=8, init_attention=[])
OURS = ["CDRL", "CDRL, no warm start", "DRL, K 5", "DRL, T 3, K 12", "DRL, base and warm start", "DDPM"]
PEERS = ["ebmkit DRL", "torchebm EM", "torchebm PCD"]


def read(run):
    return json.loads((run / "metrics.json").read_text())


@pytest.mark.parametrize(
    "dataset, metric",
    [("digits_small", "fd_classifier"), pytest.param("checkerboard", "histogram_kl", marks=pytest.mark.slow)],
)
def test_all_arms_that_are_installed(notebook, dataset, metric):
    small = dataset == "digits_small"
    ours = [*OURS, "DDPM, CDRL's U-Net"] if small else OURS
    name, changes = f"baselines-{dataset.removesuffix('_small')}", dict(changes=QUICK) if small else {}
    run = notebook("baselines", dataset=dataset, **TINY, **changes) / name
    metrics, curves = read(run), pd.read_csv(run / "curves.csv")
    arms = ours + [a for a in PEERS if a not in missing_peers()]
    by = {r["arm"]: r for r in metrics["results"]}
    assert list(by) == arms and metrics["absent"] == missing_peers() and metrics["metric"] == metric
    assert all(r["diverged"] == 0 and r["steps"] >= 1 and r["minutes"] > 0 for r in by.values())
    assert all(0 <= r["precision_classifier" if small else "inside"] <= 1 for r in by.values())
    assert all(1 <= (curves.arm == a).sum() <= TINY["snapshots"] for a in arms)
    assert curves.groupby("arm").minutes.max()["CDRL"] == pytest.approx(TINY["minutes"], rel=0.5)
    assert all(cost > 0 for phases in metrics["cost"].values() for cost in phases.values())
    whole = by["DRL, base and warm start" if small else "DRL, K 5"]["parameters"] + by[ours[-1]]["parameters"]
    assert by["CDRL"]["parameters"] == whole  # the same two networks
    T, K = (2, 2) if small else (6, get_config(dataset).n_langevin)
    count = {a: r["evaluations"] for a, r in by.items()}
    assert count["CDRL"] == count["DDPM"] == count[ours[-1]]
    start = get_config(dataset).metropolis  # corrected chains evaluate where they start too
    assert count["DRL, T 3, K 12"] - count["CDRL"] == 3 * (12 + start) - T * (K + start + 1)
    ways = {(w["arm"], w["evaluations"]) for w in metrics["otherwise"] if w["arm"] in ours}
    alone = {(a, T) for a in ours if a.startswith("CDRL")}
    assert ways == alone | {(a, n) for a in ours if "DDPM" in a for n in (T, 5)}
    for w in metrics["otherwise"]:
        if w["arm"] not in ours:
            assert w["evaluations"] == count[w["arm"]] - (w["arm"] == "ebmkit DRL")
    ddpm = [f"{a}, {n} evaluations" for a in ours if "DDPM" in a for n in (T, 5)]
    assert set(metrics["verdicts"]) == {f"CDRL / {a}" for a in [*arms, *ddpm] if a != "CDRL"}
    assert len(baseline_rows(metrics)) == len(metrics["results"]) + len(metrics["otherwise"])  # the tables can read it
    if small:  # points that hardly trained have infinite divergences
        assert all(Rival(theirs).judge(metrics) is not None for theirs in (None, "DDPM", "DDPM, 5 evaluations"))
    more = next(w for w in metrics["otherwise"] if w["arm"] == "DDPM" and w["evaluations"] == 5)
    verdicts = metrics["verdicts"]
    assert verdicts["CDRL / DDPM, 5 evaluations"]["theirs"]["mean"] == pytest.approx(more["mean"])
    assert verdicts["CDRL / DDPM"]["theirs"]["mean"] == pytest.approx(by["DDPM"]["value"])
    assert verdicts["CDRL / DRL, K 5"]["at_most"] == 0.45 and verdicts["CDRL / DDPM"]["at_most"] == 1
    assert all((run / name).exists() for name in ("figures/curves.png", "figures/samples.png", "manifest.json"))


@pytest.mark.long
def test_resumed_with_an_arm_that_diverged(here):
    """Finished parts are changed by hand: a resumed run must take them as they are, and judge by them."""
    names = ["CDRL", "DRL, K 5", "DDPM"]
    run = here("baselines", dataset="digits_small", arms=names, **TINY) / "baselines-digits"
    parts = json.loads((run / "parts.json").read_text())
    assert [q["key"][:2] for q in parts] == [["costs"], *(["train", a] for a in names)]
    finished = {q["key"][1]: q for q in parts if q["key"][0] == "train"}
    finished["CDRL"]["value"], finished["DRL, K 5"]["value"] = 4.0, 10.0
    for name, values in (("CDRL", (9.0, 5.0)), ("DRL, K 5", (8.0, 12.0))):
        for row, value in zip(finished[name]["curve"], values):
            row["value"] = value
    for k in ("parameters", "evaluations", "ways", "shown", "drawing"):
        finished["DDPM"].pop(k)
    finished["DDPM"].update(diverged="the loss is nan after 7 iterations", value=float("nan"), curve=[])
    (run / "metrics.json").unlink()
    (run / "parts.json").write_text(json.dumps(parts))
    here("baselines", dataset="digits_small", arms=names, resume=True, **TINY)
    metrics, ddpm, drl = read(run), read(run)["verdicts"]["CDRL / DDPM"], read(run)["verdicts"]["CDRL / DRL, K 5"]
    assert len(json.loads((run / "parts.json").read_text())) == len(parts)
    assert drl["ratio"] == pytest.approx(0.4) and drl["holds"]
    assert drl["ahead_since"] == pytest.approx(TINY["minutes"], rel=0.5)
    assert ddpm["ratio"] is None and ddpm["diverged"] == 1 and ddpm["holds"] and ddpm["seeds_better"] == 1
    row = next(r for r in metrics["results"] if r["arm"] == "DDPM")
    assert row["value"] is None and row["diverged"] == 1 and "nan after 7" in row["reason"]


class Fake:
    """A learner whose samples are as far off as its arm says; it diverges, or gives no finite distance."""

    parameters = 1

    def __init__(self, far, diverges):
        self.far, self.diverges = far, diverges

    def advance(self, n):
        if self.diverges:
            raise DivergenceError("far")

    def sample(self, n, seed):
        return torch.full((n, 2), self.far)

    def evaluations(self):
        return 1


def test_rates_of_the_search_and_those_given_up():
    """An arm with a seed that diverges starts again with all seeds at the next lower factor that the search has tried,
    and at up to three below those; an infinite distance of points is no divergence: the share inside decides."""
    limits = dict(sound=99.0, late=2.0, slow=0.1, hopeless=0.001, early=99.0)  # the largest factor that seed 1 survives
    made = []

    def arm(name):
        def make(seed, factor, steps):
            made.append((name, seed, round(factor, 3)))
            high = seed == 1000 and factor > 3.1  # the search ends there
            return Fake(1 / factor, high or seed == 1 and factor > limits[name])

        return Arm(name, make)

    def evaluate(x):
        far = x[0, 0].item()
        return dict(distance=math.inf if made[-1][0] == "early" else far, inside=1 / far)

    kept = {("costs",): dict(costs={name: dict(training=1.0) for name in limits})}

    def once(key, work):
        if key not in kept:
            kept[key] = json_ready(work())
        return kept[key]

    judge = Judge(evaluate, "distance", 32, 32, also=("inside",))
    arms = [arm(name) for name in limits]
    study = Comparison(SimpleNamespace(once=once), arms, judge, 1.0, [0, 1], [0.3, 1.0, 3.0], snapshots=1)
    runs = as_table(study.run())
    found = {a: round(f, 2) for a, f in zip(runs.arm, runs.found)}
    assert found == dict.fromkeys(limits, 3.0)
    factors = {a: round(f, 2) for a, f in zip(runs.arm, runs.factor)}
    assert factors == dict(sound=3.0, late=1.64, slow=0.09, hopeless=0.01, early=3.0)
    lost = [(r.arm, r.seed) for r in runs.itertuples() if isinstance(r.diverged, str)]
    assert lost == [("hopeless", 1)]
    trained = [m for m in made if m[1] != 1000]
    assert trained[:2] == [("sound", 0, 3.0), ("sound", 1, 3.0)] and len(set(trained)) == len(trained)
    assert [m for m in trained if m[0] == "late"] == [("late", s, f) for f in (3.0, 1.643) for s in (0, 1)]
    before = len(made)
    study.run()
    assert len(made) == before  # all is kept


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
        (dict(minutes=0), "minutes is 0"),
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
