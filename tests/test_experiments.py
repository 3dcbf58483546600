"""Every experiment runs end to end through papermill, leaves what it promises, resumes bit for bit, and refuses what it
does not know."""

import json
import re
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import nbformat
import pandas as pd
import papermill
import psutil
import pytest
import torch
import yaml
from conftest import ROOT, TINY
from safetensors.torch import load_file

import cdrl.lab.grid
from cdrl.config import PRESETS, Config, get_config
from cdrl.lab.front import Reports
from cdrl.lab.parameters import settings_cell
from cdrl.lab.results import quality_table
from cdrl.lab.runs import lock_folder
from cdrl.model import CDRL

EXPERIMENTS = [nb for nb in sorted((ROOT / "nbs").glob("*.ipynb")) if not nb.name[:2].isdigit() and nb.stem != "index"]
FILES = {
    "params.yaml",
    "metrics.json",
    "history.csv",
    "manifest.json",
    "model",
    "figures",
    "quality.csv",
    "checkpoints",
    ".lock",
}
POINTS = {
    k: v for k, v in TINY.items() if k not in ("n_reference", "n_progress", "ebm_channel_mult", "init_channel_mult")
}


@pytest.mark.parametrize("nb", EXPERIMENTS, ids=lambda nb: nb.stem)
def test_experiments_are_stored_clean(nb):
    cells = nbformat.read(nb, as_version=4).cells
    assert sum("parameters" in c.metadata.get("tags", []) for c in cells) == 1
    assert not any(c.get("outputs") for c in cells) and "skip_exec: true" in cells[0].source


def test_every_setting_is_a_parameter_of_train():
    known = papermill.inspect_notebook(str(ROOT / "nbs/train.ipynb"))
    missing = set(Config.__dataclass_fields__) - set(known)
    assert not missing, f"{missing} cannot be set with -p: add them to the parameters cell of nbs/train.ipynb"


@pytest.mark.parametrize("name", ["train", "checkerboard"])
def test_settings_in_the_parameters_cell_are_those_of_config(name):
    "Word for word; `settings_cell()` prints what belongs there."
    nb = nbformat.read(ROOT / f"nbs/{name}.ipynb", 4)
    cell = next(c.source for c in nb.cells if "parameters" in c.metadata.get("tags", []))
    lines, made = cell.splitlines(), settings_cell()
    wanted = {line.split(":")[0]: line for line in made if not line.startswith("#")}
    found = {line.split(":")[0]: line for line in lines if line.split(":")[0] in wanted}
    assert found == {k: wanted[k] for k in found} and len(found) > 10
    if name == "train":
        assert lines[-len(made) :] == made


@pytest.mark.parametrize(
    "extra",
    [
        dict(),
        dict(conditional=True),
        dict(initializer="absent"),
        dict(energy_scale="langevin", step_size="paper", precision="bf16"),
        dict(metropolis=True, level_weights=[3, 1, 0]),
    ],
    ids=["default", "conditional", "drl", "paper-scale", "metropolis"],
)
def test_train(notebook, here, extra):
    run = (here if extra else notebook)("train", **{**TINY, **extra}) / "digits"
    assert {p.name for p in run.iterdir()} == FILES
    metrics, manifest = (json.loads((run / f"{n}.json").read_text()) for n in ("metrics", "manifest"))
    assert (
        metrics["fd_classifier"] > 0
        and metrics["real_test"]["fd_lite0"] > 0
        and metrics["n_samples"] == 32
        and "digits" in metrics["reference"]
    )
    assert ("class_accuracy" in metrics) == bool(extra.get("conditional")) and (
        metrics["initializer_alone"] is None
    ) == (extra.get("initializer") == "absent")
    assert manifest["seed"] == 0 and manifest["threads"] >= 1 and manifest["commit"] and manifest["wall_seconds"] > 0
    assert {p.stem for p in (run / "figures").iterdir()} >= {
        "levels",
        "quality",
        "progress",
        "walk",
        "samples",
        "nearest",
    }
    model = CDRL.from_pretrained(run / "model")
    assert model.sample(2, label=3 if model.n_class else None, seed=0).shape == (2, 1, 8, 8)


def test_train_points_and_two_runs_side_by_side(here):
    for name in ("checkerboard", "checkerboard-2"):
        run = here("train", dataset="checkerboard", **POINTS, n_progress=32) / name
        assert {"inside", "histogram_kl"} <= set(json.loads((run / "metrics.json").read_text()))


def test_checkerboard(notebook):
    run = notebook("checkerboard", **POINTS) / "checkerboard"
    metrics = json.loads((run / "metrics.json").read_text())
    assert len(metrics["kl_levels"]) == get_config("checkerboard").n_levels and metrics["kl_level0_grid"] > 0
    assert FILES == {p.name for p in run.iterdir()}


def test_evaluate(notebook, refused, trained, tmp_path):
    run = (
        notebook("evaluate", model=(model := trained(conditional=True)), n_samples=40, n_langevin=0, guidance=0.5)
        / "evaluate-digits"
    )
    metrics = json.loads((run / "metrics.json").read_text())
    assert (
        metrics["fd_classifier"] > 0
        and metrics["n_samples"] == 40
        and metrics["split"] == "train"
        and "digits" in metrics["reference"]
        and metrics["sampler"]["n_langevin"] == 0
        and 0.9 < metrics["judge_accuracy"] <= 1
    )
    assert (
        0 <= metrics["class_accuracy"] <= 1
        and not any(k.startswith("FID") for k in metrics)
        and (run / "figures/classes.png").exists()
    )
    (tmp_path / "weights.pth").write_bytes(b"not Inception")
    assert "expected 6726825d" in refused("evaluate", model=model, run="other", inception=str(tmp_path / "weights.pth"))


def test_classifier(notebook):
    run = notebook("classifier", steps=60) / "classifier-digits"
    assert json.loads((run / "metrics.json").read_text())["accuracy"] > 0.5


def test_benchmark(notebook):
    run = notebook("benchmark", presets=["checkerboard"], curve_preset="checkerboard", repeats=2) / "benchmark"
    metrics = json.loads((run / "metrics.json").read_text())
    assert all(
        row["gradient_double"] < 1e-10 and row["gradient"] < 1e-4 and row["chain"] < 1e-4
        for row in metrics["relative_error"]
    )  # the plain reading's numbers
    assert {(s["what"], s["precision"]) for s in metrics["speed"]} == {
        (w, p) for w in ("chain", "training step") for p in ("fp32", "bf16")
    }
    assert all(c["GFLOP"] > 0 and c["ms"] > 0 and c["peak_MB"] > 0 for c in metrics["costs"])
    memory = metrics["sampling_memory_mb"]
    assert memory["1024"] < memory["64"] + 2 * 1024 * 2 * 4 / 1e6  # grows by the samples themselves at most


def test_time_to_quality(notebook):
    run = (
        notebook(
            "time_to_quality", dataset="digits_small", seeds=[0, 1], steps=6, snapshots=2, n_samples=64, target=1e6
        )
        / "time-to-quality-digits_small"
    )
    metrics = json.loads((run / "metrics.json").read_text())
    arms = [(a["precision"], a["seed"]) for a in metrics["arms"]]
    assert arms == [("bf16", 0), ("bf16", 1), ("fp32", 0), ("fp32", 1)]
    assert all(1 <= a["steps"] < 6 for a in metrics["arms"])  # the first of two measurements, half of the time
    quality = pd.read_csv(run / "quality.csv")
    assert list(quality.groupby(["precision", "seed"]).step.max()) == [6] * 4 and (quality.minutes > 0).all()
    run.rename(run.parent / "time-to-quality-digits")
    assert "| 2 of 2 |" in quality_table(Reports(run.parent)).data  # the page of results can read it


@pytest.mark.long
def test_killed_and_resumed_is_bit_identical(here, tmp_path):
    settings = {**TINY, "steps": 60, "checkpoint_every": 5, "snapshots": 4}
    whole = here("train", run="whole", **settings) / "whole"
    reports, args = whole.parent, [a for k, v in settings.items() if not isinstance(v, list) for a in ("-p", k, str(v))]
    args += [a for k, v in settings.items() if isinstance(v, list) for a in ("-y", f"{k}: {v}")]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "papermill",
            "nbs/train.ipynb",
            str(tmp_path / "killed.ipynb"),
            "-p",
            "run",
            "killed",
            "-p",
            "reports",
            str(reports),
            *args,
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.time() + 120
    while not list(reports.glob("killed/checkpoints/checkpoint-0000000[5-9]*")):
        assert time.time() < deadline and process.poll() is None, "no checkpoint was written"
        time.sleep(0.02)
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    for p in reversed(family):
        p.kill()
    process.wait()
    psutil.wait_procs(family[1:], timeout=10)
    assert not (reports / "killed/metrics.json").exists()
    here("train", run="killed", resume=True, **settings)
    a, b = (load_file(reports / r / "model/model.safetensors") for r in ("whole", "killed"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    h = [pd.read_csv(reports / r / "history.csv").drop(columns="seconds") for r in ("whole", "killed")]
    pd.testing.assert_frame_equal(*h)


def test_a_run_of_another_preset_is_left_untouched(here, refused):
    run = here("train", run="mine", **TINY) / "mine"
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    for extra in (dict(), dict(resume=True), dict(resume=True, dataset="checkerboard")):
        assert "mine" in refused("train", run="mine", **{**TINY, **extra})
    assert before == {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "parameters, message",
    [
        (dict(dataset="cifar"), "dataset 'cifar' has no preset; choose one of checkerboard, digits"),
        (dict(learning_rate=0.1), "parameter 'learning_rate' is unknown"),
        (dict(steps=-1), "steps is -1; it must be in 1"),
        (dict(ebm_lr="fast"), "expected a float"),
        (dict(run="../outside"), "run name '../outside' is not allowed"),
        (dict(n_samples=1), "at least 2"),
        (dict(n_devices=0), "at least 1"),
        (dict(keep=0), "at least 1"),
        (dict(accumulate=3), "must divide batch_size"),
        (dict(dataset="imagenet32"), "train_data_batch_1"),
        (
            dict(
                ebm_lr=1.0,
                steps=200,
                energy_scale="langevin",
                step_size="paper",
                grad_clip=1e9,
                recoveries=1,
                recovery_factor=1.0,
            ),
            "Given up after 1 recoveries",
        ),
    ],
)
def test_train_refuses(refused, tmp_path, parameters, message):
    assert message in refused("train", **{**TINY, "data": str(tmp_path / "none"), **parameters})
    assert not list((tmp_path / "reports").glob("*/metrics.json")) and not list(tmp_path.rglob("*.partial"))


def test_inpainting(notebook, trained):
    run = (
        notebook(
            "inpainting",
            model=trained(),
            n_images=8,
            n_particles=2,
            n_completions=3,
            n_resample=1,
            n_labelled=100,
            seeds=[0, 1],
        )
        / "inpainting-digits"
    )
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["known_pixels_exact"] and {(r["mask"], r["way"]) for r in metrics["results"]} == {
        (m, w)
        for m in ("half", "box", "random", "free-form")
        for w in (
            "CDRL",
            "CDRL, most typical",
            "CDRL, one particle",
            "CDRL, resampling",
            "initializer alone",
            "initializer alone, most typical",
            "nearest neighbour",
            "neighbours, most typical",
            "mean image",
            "known pixels",
        )
    } | {("half", w) for w in ("CDRL, K of training", "CDRL, one particle, K of training")}
    assert set(metrics["verdicts"].values()) | set(metrics["verdicts_chains"].values()) <= {
        "better",
        "worse",
        "undecided",
    }
    assert {p.stem for p in (run / "figures").iterdir()} == {"half", "box", "random", "free-form"}


def test_guidance(notebook, refused, trained):
    run = (
        notebook("guidance", model=trained(conditional=True), weights=[0.7], seeds=[0, 1], n_samples=32)
        / "guidance-digits"
    )
    metrics = json.loads((run / "metrics.json").read_text())
    assert {(r["way"], r["w"]) for r in metrics["results"]} == {
        (a, w) for a in ("both", "energy", "initializer") for w in (0.0, 0.7)
    } and set(metrics["verdicts"]) == {"both", "energy", "initializer"}
    assert {r["fd_rises_again"] for r in metrics["verdicts"].values() if r["best_w"] == 0.7} <= {"not reached"} and set(
        metrics["gain_alone"]
    ) == {"energy", "initializer"}
    net = CDRL.from_pretrained(ROOT / trained(conditional=True))
    plain = net.sample(4, label=3, seed=1)
    assert torch.equal(plain, net.sample(4, label=3, seed=1, guidance=0.0)) and torch.equal(
        plain, net.sample(4, label=3, seed=1, guidance=0.0, init_guidance=0.0)
    )  # w = 0 is the same for all ways, which the notebook takes for granted
    assert not torch.equal(
        net.sample(4, label=3, seed=1, guidance=0.7), net.sample(4, label=3, seed=1, guidance=0.7, init_guidance=0.0)
    )
    assert {p.stem for p in (run / "figures").iterdir()} == {"samples", "tradeoff"}
    assert "is unconditional" in refused("guidance", model=str(ROOT / "reports/digits/model"), run="other")


def test_composition(notebook, trained):
    models = dict(model=trained("color_digits"), joint=trained("color_digits:joint"))
    run = (
        notebook(
            "composition",
            **models,
            weights=[1.0],
            init_shares=[0.5, 1.0],
            joint_weights=[0.0],
            n_seen=30,
            n_unseen=1,
            seeds=[0, 1],
        )
        / "composition"
    )
    metrics = json.loads((run / "metrics.json").read_text())
    ways = {
        "composed",
        "composed, Metropolis",
        "composed, likeliest of 2",
        "composed, no Langevin steps",
        "joint label",
    }
    assert (
        metrics["n_unseen"] == 20
        and metrics["n_unseen_samples"] == 40
        and set(metrics["unseen_all_present"]) == set(metrics["seen_all_present"]) == ways
        and all(v > 0.9 for v in metrics["judge_accuracy"].values())
    )
    assert {r["way"] for r in metrics["not_"]} == {"digit", "digit and not ink"} and len(metrics["or_"]) == 5


def test_ood(notebook, trained, tmp_path):
    run = (
        notebook(
            "ood",
            datasets=["digits", "cifar10"],
            models=[model := trained()] * 2,
            drl=[model] * 2,
            data=str(tmp_path / "none"),
            n_images=40,
            n_fit=60,
            n_noise=1,
            n_langevin=1,
        )
        / "ood"
    )
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics["skipped"]) == {"cifar10", "digits against mnist"} and {r["model"] for r in metrics["main"]} == {
        "CDRL",
        "DRL",
        "baseline",
    }
    assert {r["outside"] for r in metrics["main"]} == {
        "interpolated",
        "rotated",
        "inverted",
        "constant",
        "noise",
    } and all(r["auroc_low"] <= r["auroc"] <= r["auroc_high"] for r in metrics["main"])
    assert {"likelihood (bound)", "typicality"} <= {r["score"] for r in metrics["main"] if r["model"] == "CDRL"}
    same = {
        k: {r["auroc"] for r in metrics["main"] if (r["outside"], r["score"]) == k}
        for k in {(r["outside"], r["score"]) for r in metrics["main"] if r["model"] == "CDRL"}
    }
    assert all(len(v) == 1 for v in same.values())  # the same model under both names


def test_evaluate_refuses_points_before_it_makes_a_folder(refused, tmp_path):
    assert "has points" in refused("evaluate", dataset="checkerboard")
    assert not (tmp_path / "reports").exists()


def test_cost(notebook):
    run = notebook("cost", n_images=5000) / "cost"
    metrics = json.loads((run / "metrics.json").read_text())
    evaluations = {r["preset"]: r["evaluations"] for r in metrics["counted"]}
    assert (
        set(evaluations) == set(PRESETS)
        and (evaluations["digits"], evaluations["cifar10"]) == (19, 97)
        and "projection" in metrics["assumption"]
    )
    assert (
        metrics["loading"]["images"] == 5000
        and metrics["projected_hours"]["cifar10"]["8 × H100"] < metrics["projected_hours"]["cifar10"]["8 × A100"]
    )


@pytest.mark.long
def test_grid_runs_on_after_a_failure_and_skips_what_is_finished(tmp_path, capfd):
    small = dict(POINTS, dataset="checkerboard", n_progress=32)
    spec = dict(
        notebook="train", name="g-{seed}-{ebm_lr}", base={**small, "recoveries": 0}, grid=dict(seed=[0, 1]), runs=[]
    )
    spec["base"]["ebm_lr"] = 1.0e-3
    spec["runs"] = [dict(seed=2, ebm_lr="fast")]  # refused by the notebook
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(spec))
    given = [str(tmp_path / "grid.yaml"), "--reports", str(tmp_path / "reports")]

    def run(*more):
        "The command in this process: its code and what it has printed."
        code = 0
        try:
            cdrl.lab.grid.main([*given, *more])
        except SystemExit as e:
            code = e.code
        printed = capfd.readouterr()
        return SimpleNamespace(returncode=code, stdout=printed.out, stderr=printed.err)

    command = [sys.executable, "-m", "cdrl.lab.grid", *given, "--only", "0"]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert first.returncode == 0 and "g-0-0.001: finished" in first.stdout, first.stderr
    second = run("--workers", "1")
    assert (
        second.returncode == 1
        and "3 runs, 1 not to be run now, 2 to do" in second.stdout
        and "g-1-0.001: finished" in second.stdout
        and "g-2-fast: failed" in second.stdout
    ), second.stderr
    assert "expected a float" in (tmp_path / "reports/g-2-fast/error.txt").read_text()
    assert "3 runs, 3 not to be run now, 0 to do" in run().stdout
    (tmp_path / "reports/g-1-0.001/metrics.json").unlink()  # as if another process were at it
    shutil.rmtree(tmp_path / "reports/g-1-0.001/checkpoints", ignore_errors=True)  # with nothing yet to go on from
    lock, before = (
        lock_folder(tmp_path / "reports/g-1-0.001"),
        sorted(p.name for p in (tmp_path / "reports/g-1-0.001").rglob("*")),
    )
    status = run("--status")
    assert (
        status.returncode == 0
        and re.search(r"g-1-0.001 +running", status.stdout)
        and re.search(r"g-2-fast +failed", status.stdout)
    ), status.stdout
    assert "0 to do" in run().stdout and sorted(p.name for p in (tmp_path / "reports/g-1-0.001").rglob("*")) == before
    lock.close()
    assert re.search(r"g-1-0.001 +interrupted", run("--status").stdout)
