"""Ablations, acceleration and the table of results run end to end through papermill, go on after an interruption, and refuse what they do not know."""
import json

import pandas as pd
import pytest
import yaml
from papermill.exceptions import PapermillExecutionError

from cdrl.experiment import expand_grid
from conftest import ROOT, TINY

SHORT = dict(minutes=0.01, search_minutes=0.005, seeds=[0, 1], search=[1.0], snapshots=1, n_progress=32, n_samples=32, n_reference=64, n_gradients=3)


def test_ablation_and_its_resumption(notebook):
    run = notebook("ablation", study="variance_reduction", **SHORT) / "ablation-variance_reduction-digits"
    metrics = json.loads((run / "metrics.json").read_text())
    assert {(r["arm"], r["budget"]) for r in metrics["results"]} == {(a, b) for a in ("one noise", "two noises") for b in ("equal minutes", "equal iterations")}
    assert [v["level"] for v in metrics["gradient_variance"]] == list(range(6)) and all(v["ratio"] > 0 for v in metrics["gradient_variance"])
    assert metrics["verdicts"]["equal iterations"]["two noises"]["ratio"] > 0
    parts = json.loads((run / "parts.json").read_text())
    (run / "metrics.json").unlink(); (run / "parts.json").write_text(json.dumps(parts[:-1]))                # as if stopped before the last training
    notebook("ablation", study="variance_reduction", resume=True, **SHORT)
    again = json.loads((run / "parts.json").read_text())
    assert again[:-1] == parts[:-1] and again[-1]["key"] == parts[-1]["key"] and again[-1]["value"] == pytest.approx(parts[-1]["value"], rel=1e-3)


def test_ablation_of_points_with_arms_of_different_cost(notebook):
    run = notebook("ablation", study="initializer", dataset="checkerboard", **{**SHORT, "seeds": [0], "n_samples": 500}) / "ablation-initializer-checkerboard"
    metrics, runs = json.loads((run / "metrics.json").read_text()), pd.read_csv(run / "runs.csv")
    assert metrics["evaluations"]["absent (DRL)"] < metrics["evaluations"]["cooperative"] and metrics["evaluations"]["alone, no chains"] == 6
    steps = runs.set_index(["budget", "arm"]).steps
    assert steps["equal minutes", "alone, no chains"] > steps["equal iterations", "alone, no chains"] == metrics["iterations"]


@pytest.mark.parametrize("parameters, message", [(dict(study="magic"), "choose one of initializer"), (dict(search=[]), "must not be empty"), (dict(minutes=0), "must be positive"), (dict(steps=3), "steps")])
def test_ablation_refuses(notebook, parameters, message):
    with pytest.raises(PapermillExecutionError, match=message): notebook("ablation", **{**SHORT, **parameters})


def test_the_grid_of_ablations_names_every_study_once():
    runs = expand_grid(yaml.safe_load((ROOT / "reports/grids/ablation.yaml").read_text()))
    assert len({r["study"] for r in runs.values()}) == 7 and "ablation-initializer-fashion_mnist" in runs


def test_acceleration(notebook):
    small = notebook("train", run="small", **{**TINY, "n_langevin": 2}) / "small/model"
    drl = notebook("train", run="drl", initializer="absent", **{**TINY, "n_langevin": 2}) / "drl/model"
    run = notebook("acceleration", model=str(small), drl=str(drl), n_langevin=[2, 1, 0], budgets=[1], scales=[1.0, 2.0], seeds=[0, 1], n_samples=32, n_reference=64) / "acceleration-digits"
    metrics = json.loads((run / "metrics.json").read_text())
    assert {r["evaluations"] for r in metrics["results"] if r["model"] == "CDRL" and r["shape"] == "even"} == {19, 13, 6}
    assert {r["shape"] for r in metrics["results"]} == {"even", "low half", "high half", "falling", "rising"}
    best = min(r["fd_mean"] for r in metrics["results"] if r["model"] == "CDRL")
    assert min(r["fd_mean"] for r in metrics["front"]) == best and metrics["fewest_evaluations"]["CDRL"]["most"] == 19


def test_results_judge_by_their_rules(notebook, tmp_path):
    made = tmp_path / "made"
    for name, value in dict(checkerboard=dict(inside=0.98, histogram_kl=0.02), composition=dict(unseen_all_present={"composed": 0.5, "joint label": 0.1})).items():
        (made / name).mkdir(parents=True); (made / name / "metrics.json").write_text(json.dumps(value))
    claims = json.loads((notebook("results", source=str(made)) / "results/metrics.json").read_text())["claims"]
    verdicts = {r["topic"]: r["verdict"] for r in claims if r["runs"]}
    assert verdicts == {"samples": "confirmed at this scale", "composition": "not confirmed"} and all(r["verdict"] == "not tested" and r["why"] for r in claims if not r["runs"])
    assert any("50% of samples" in r["here"] for r in claims)
