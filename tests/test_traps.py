"""Situations in which a user would lose work, be led in a circle, or read a wrong number: each kind of them in a
table."""

import copy
import gc
import json
import math
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from tiny import NETWORKS

import cdrl.lab.grid
import cdrl.lab.launch
from cdrl.composition import concept_evidence, sample_composed
from cdrl.config import build_model, get_config
from cdrl.detection import fpr95, ood_scores
from cdrl.inpainting import inpaint, inpainting_masks, known_log_weight
from cdrl.lab.grid import expand_grid, run_grid, run_one, run_state
from cdrl.lab.launch import folder_config
from cdrl.lab.reports import report_scores
from cdrl.lab.runs import LOCK, RUNNER_LOCK, is_locked, lock_folder, open_run, settings_of, write_json
from cdrl.metrics import SmallClassifier, inception_scores, load_classifier, nearest, save_classifier

SMALL = dict(
    NETWORKS,
    n_langevin=1,
)
INF, NAN = math.inf, math.nan
TRAIN = dict(dataset="digits", steps=7)


def net(**kw):
    torch.manual_seed(0)
    model = build_model(get_config("digits", **SMALL, **kw), (1, 8, 8), 10)
    for p in model.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return model


def strict(text):
    """JSON as other programs read it."""

    def no(constant):
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=no)


def contents(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name not in (LOCK, RUNNER_LOCK)
    }


# --- files


@pytest.mark.parametrize(
    "value, held",
    [
        (NAN, None),
        (-INF, None),
        ([1.5, INF], [1.5, None]),
        (dict(a=(np.float32(NAN), np.int64(3))), dict(a=[None, 3])),
        (np.bool_(True), True),
        ("NaN", "NaN"),
    ],
)
def test_json_has_null_for_what_is_not_finite(tmp_path, value, held):
    write_json(tmp_path / "a.json", value)
    assert strict((tmp_path / "a.json").read_text()) == held


def test_parts_are_null_where_they_were_not_finite_also_in_files_from_before(tmp_path):
    run = open_run(tmp_path, "study", "", {}, False)
    (run.folder / "parts.json").write_text(
        '[{"key": ["a"], "value": NaN, "ended": ""}, {"key": ["b"], "value": Infinity, "ended": ""}]'
    )
    assert [q["value"] for q in run.parts] == [None, None]
    assert (
        run.once(("c",), lambda: dict(value=INF))["value"] is None
        and strict((run.folder / "parts.json").read_text())[2]["value"] is None
    )


def test_every_committed_json_file_is_json():
    files = sorted((ROOT / "reports").rglob("*.json"))
    assert len(files) > 50
    for f in files:
        strict(f.read_text())


def test_a_table_names_an_infinite_distance():
    assert report_scores(dict(inside=0.5, histogram_kl=None)) == "inside 0.5; histogram KL infinite"


# --- parameters: refused with the reason, and before a folder is made

REFUSED = [
    ("train", dict(K=30), "parameter 'K' is unknown"),
    ("train", dict(run=2024), "-r run 2024"),
    ("train", dict(resume="no"), "choose True or False"),
    ("train", dict(step_r=INF), "step_r is inf; it must be finite"),
    ("train", dict(n_devices=2, batch_size=7), "choose a multiple of 2"),
    ("train", dict(n_devices=4096), "n_devices is 4096; this machine has"),
    ("train", dict(n_devices=2, n_progress=1), "at least 2"),
    ("train", dict(dataset=5), "-r dataset 5"),
    ("checkerboard", dict(T=3), "parameter 'T' is unknown"),
    ("evaluate", dict(seed=None), "seed is None; it must be a whole number"),
    ("evaluate", dict(run=2024), "-r run 2024"),
    ("evaluate", dict(resume=True), "parameter 'resume' is unknown"),
    ("evaluate", dict(guidance=1.0), "needs a conditional model"),
    ("evaluate", dict(guidance=NAN), "guidance is nan; it must be finite"),
    ("evaluate", dict(guidance="strong"), "it must be a number"),
    ("evaluate", dict(step_scale=-1), "at least 0"),
    ("evaluate", dict(n_langevin=[1, 2]), "the model has 3 levels"),
    ("evaluate", dict(n_langevin=1.5), "whole number"),
    ("evaluate", dict(labels=True), "has 0 classes and digits 10"),
    ("evaluate", dict(inception="x.pth", n_samples=9), "n_samples is 9; it must be a whole number of at least 10"),
    ("evaluate", dict(n_devices=4096), "this machine has"),
    ("evaluate", dict(INCEPTION_SHA256="x"), "'INCEPTION_SHA256' is unknown"),
    ("classifier", dict(seed=None), "seed is None"),
    ("classifier", dict(steps=0), "at least 2"),
    ("classifier", dict(dataset="checkerboard"), "needs images of at least two"),
    ("guidance", dict(seeds=[None]), "whole numbers"),
    ("guidance", dict(n_langevin=-1), "at least 0"),
    ("guidance", dict(weights=[0.5, INF]), "must be finite"),
    ("inpainting", dict(seeds=[0, 0.5]), "whole numbers"),
    ("inpainting", dict(seeds=[0]), "2 or more"),
    ("inpainting", dict(n_langevin=-1), "at least 0"),
    ("composition", dict(n_seen=500), "there are 180 combinations"),
    ("composition", dict(choice_seed=None), "choice_seed is None"),
    ("composition", dict(COMBINATIONS=3), "'COMBINATIONS' is unknown"),
    ("ood", dict(seed=None), "seed is None"),
    ("benchmark", dict(seed=None), "seed is None"),
    ("cost", dict(gpus={"T4": 0}), "a positive number"),
    ("cost", dict(gpus={"T4": INF}), "must be finite"),
    ("acceleration", dict(n_langevin=[1.5]), "whole number"),
    ("acceleration", dict(seeds=[]), "1 or more"),
    ("time_to_quality", dict(precisions=[]), "must not be empty"),
    ("time_to_quality", dict(seeds=[]), "1 or more"),
    ("ablation", dict(seeds=[]), "1 or more"),
    ("results", dict(SOURCE="x"), "'SOURCE' is unknown"),
]  # notebook, parameters, message


@pytest.mark.parametrize("nb, parameters, message", REFUSED, ids=lambda v: v if isinstance(v, str) else str(v))
def test_refused_before_a_folder_is_made(refused, tmp_path, nb, parameters, message):
    assert message in refused(nb, **parameters)
    assert not (tmp_path / "reports").exists()


# --- folders of runs


def test_a_run_that_failed_before_its_first_result_gives_its_name_back(refused, tmp_path, monkeypatch):
    def stop(*a, **k):
        raise RuntimeError("no samples today")

    monkeypatch.setattr(cdrl.lab.launch, "draw_features", stop)
    for n in (40, 50):  # the second time, too
        assert "no samples today" in refused("evaluate", run="mine", n_samples=n, n_reference=64)
        gc.collect()  # a kernel that ends closes its lock
    assert settings_of(tmp_path / "reports/mine")["n_samples"] == 50
    (tmp_path / "reports/mine/metrics.json").write_text("{}")
    message = refused("evaluate", run="mine", n_samples=40, n_reference=64)
    assert "exists" in message and "resume" not in message


def test_an_experiment_that_cannot_resume_does_not_offer_it(refused, tmp_path):
    run = open_run(tmp_path / "reports", "mine", "", get_config("digits").__dict__, False)
    run.write_json("parts.json", [])
    run.close()
    message = refused("evaluate", run="mine", n_samples=40, n_reference=64)
    assert "choose another run name" in message and "resume" not in message


def test_a_refused_resume_gives_its_lock_back_at_once(tmp_path):
    run = open_run(tmp_path, "mine", "", dict(steps=1), False)
    run.write_json("parts.json", [])
    run.close()
    with pytest.raises(ValueError, match="steps was 1, is 2") as kept:
        open_run(tmp_path, "mine", "", dict(steps=2), True)  # `kept` holds the error and all that it refers to
    assert not is_locked(run.folder, LOCK) and kept
    open_run(tmp_path, "mine", "", dict(steps=1), True).close()


def test_a_folder_made_by_hand_goes_on_with_what_it_was_made_for(tmp_path):
    run = open_run(tmp_path, "mine", "", json.loads(json.dumps(get_config("digits", steps=9).__dict__)), False)
    run.close()
    run.write_csv("history.csv", [dict(step=1)])
    assert folder_config(run.folder, None, [])[0].steps == 9
    with pytest.raises(ValueError, match="steps was 9, is 8"):
        folder_config(run.folder, "digits", ["steps=8"])


# --- grids


def folder_of(tmp_path, kind):
    """A folder reports/r of some kind; returns it and an open lock, if there is one."""
    folder, settings = (
        tmp_path / "reports/r",
        json.loads(json.dumps(get_config(**{"preset": "digits", "steps": 8 if "other" in kind else 7}).__dict__)),
    )
    if kind in ("pictures", "their settings", "their notebook"):
        folder.mkdir(parents=True)
        (
            folder / {"pictures": "photo.png", "their settings": "params.yaml", "their notebook": "train.ipynb"}[kind]
        ).write_text("a: 1")
        return folder, None
    run = open_run(tmp_path / "reports", "r", "", settings, False)
    if "finished" in kind:
        run.write_json("metrics.json", {})
    if "table" in kind:
        run.write_csv("quality.csv", [dict(a=1)])
    if "failed" in kind:
        (folder / "error.txt").write_text("why")
    if "notes" in kind:
        (folder / "notes.md").write_text("mine")
    if "running" in kind:
        return folder, run.lock
    run.close()
    return folder, lock_folder(folder, RUNNER_LOCK) if "started" in kind else None


@pytest.fixture
def papermill(monkeypatch):
    """Stands for papermill's process: keeps what the folder holds when it would start, and fails."""
    calls, run = [], cdrl.lab.grid.subprocess.run

    def fake(command, **options):
        if "papermill" not in command:
            return run(command, **options)
        folder = (ROOT / command[4]).resolve().parent
        calls.append(
            dict(files=set(contents(folder)), held=is_locked(folder, RUNNER_LOCK), given=yaml.safe_load(command[-1]))
        )
        time.sleep(0.2)
        return SimpleNamespace(returncode=1, stderr="it failed")

    monkeypatch.setattr(cdrl.lab.grid.subprocess, "run", fake)
    return calls


@pytest.mark.parametrize(
    "kind, state",
    [
        ("pictures", "not a run"),
        ("their settings", "not a run"),
        ("their notebook", "not a run"),
        ("finished", "finished"),
        ("finished, other settings", "other settings"),
        ("other settings, with a table", "other settings"),
        ("failed, other settings", "other settings"),
        ("running", "running"),
        ("running, failed before", "running"),
        ("started by another grid", "running"),
    ],
)
def test_a_grid_leaves_alone_what_is_not_its_own_unfinished_run(tmp_path, papermill, kind, state):
    folder, lock = folder_of(tmp_path, kind)
    before = contents(folder)
    assert run_one("train", folder, TRAIN) == run_state(folder, "train", TRAIN) == state
    assert contents(folder) == before and not papermill


@pytest.mark.parametrize(
    "kind, starts_with",
    [
        ("interrupted", set()),
        ("interrupted, with a table", set()),
        ("failed", set()),
        ("interrupted, with notes and a table", {"params.yaml", "quality.csv", "notes.md"}),
    ],
)
def test_a_grid_begins_its_own_unfinished_run_again(tmp_path, papermill, kind, starts_with):
    folder, _ = folder_of(tmp_path, kind)
    assert run_one("train", folder, TRAIN) == "failed"
    assert papermill == [
        dict(files=starts_with, held=True, given=dict(TRAIN, run="r", reports=papermill[0]["given"]["reports"]))
    ]
    assert (
        (folder / "error.txt").read_text() == "it failed"
        and not is_locked(folder, LOCK, RUNNER_LOCK)
        and ("notes" not in kind or (folder / "notes.md").read_text() == "mine")
    )


def test_a_grid_goes_on_with_finished_parts(tmp_path, papermill):
    run = open_run(tmp_path / "reports", "r", "", dict(study="recipe"), False)
    run.write_json("parts.json", [dict(key=["a"], ended="")])
    run.close()
    assert (
        run_one("ablation", run.folder, dict(study="recipe")) == "failed"
        and papermill[0]["given"]["resume"] is True
        and "parts.json" in papermill[0]["files"]
    )


def test_two_grids_side_by_side_do_not_take_the_same_run(tmp_path, papermill):
    (tmp_path / "grid.yaml").write_text(
        yaml.safe_dump(dict(notebook="train", name="r-{seed}", base=TRAIN, grid=dict(seed=[0, 1])))
    )
    grids = [
        threading.Thread(target=run_grid, args=(tmp_path / "grid.yaml", 2), kwargs=dict(reports=tmp_path / "reports"))
        for _ in range(2)
    ]
    for g in grids:
        g.start()
    for g in grids:
        g.join()
    assert sorted(c["given"]["run"] for c in papermill) == ["r-0", "r-1"]


def test_grid_of_the_committed_reports_is_finished():
    for grid in ("ablation", "baselines", "models", "recipe", "tasks"):
        spec = yaml.safe_load((ROOT / f"reports/grids/{grid}.yaml").read_text())
        assert {run_state(ROOT / "reports" / name, *run) for name, run in expand_grid(spec).items()} == {"finished"}


# --- composition, inpainting, detection


@pytest.mark.parametrize("junk", [NAN, INF, -INF, 1e30])
@pytest.mark.parametrize(
    "options", [dict(), dict(n_particles=4), dict(n_particles=3, n_resample=2, batch_size=6)], ids=str
)
def test_what_is_to_be_inpainted_may_hold_anything(junk, options):
    model, images, known = net(), torch.rand(3, 1, 8, 8) * 2 - 1, inpainting_masks((1, 8, 8))["half"].expand(3, 1, 8, 8)
    done = inpaint(model, torch.where(known, images, junk), known, seed=0, **options)
    assert (
        torch.equal(done, inpaint(model, images, known, seed=0, **options))
        and torch.equal(done[known], images[known])
        and done.isfinite().all()
    )


def test_weights_of_particles_do_not_depend_on_other_images():
    g = torch.Generator().manual_seed(0)
    mean, fixed, known = (
        torch.randn(2, 5, 3, generator=g),
        torch.randn(2, 5, 3, generator=g),
        torch.ones(2, 5, 3, dtype=torch.bool),
    )
    far = fixed.clone()
    far[1] += 1000
    weights = [known_log_weight(mean, f, known, torch.tensor(0.01)) for f in (fixed, far)]
    assert torch.equal(weights[0][0], weights[1][0]) and torch.allclose(
        weights[0].sum(1), torch.tensor([-7.5, -7.5])
    )  # Σ miss²/(2 mean miss²) = 15/2, for every image


def complete(n, **options):
    return inpaint(net(), torch.zeros(n, 1, 8, 8), torch.ones(1, 1, 8, 8, dtype=torch.bool), **options)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: concept_evidence(net(conditional=True), torch.zeros(2, 3, 8, 8), [1]),
            "this model's are (N, 1, 8, 8)",
        ),
        (
            lambda: concept_evidence(net(conditional=True), torch.zeros(2, 1, 8, 8), [torch.tensor([1, 2, 3])]),
            "or 2 of them",
        ),
        (lambda: concept_evidence(net(conditional=True), torch.zeros(2, 1, 8, 8), []), "at least one concept"),
        (lambda: ood_scores(net(), torch.zeros(2, 1, 8, 9)), "this model's are (N, 1, 8, 8)"),
        (lambda: sample_composed(net(conditional=True), 2, [0.5]), "whole number"),
        (lambda: sample_composed(net(conditional=True), 2, [1], step_scale=INF), "step_scale must be a finite number"),
        (
            lambda: sample_composed(net(conditional=True), 2, [1, 2], rule="or", guidance=NAN),
            "guidance must be a finite number",
        ),
        (lambda: sample_composed(net(conditional=True), 2, [1], n_langevin=INF), "whole number"),
        (
            lambda: inpaint(
                net(conditional=True),
                torch.zeros(2, 1, 8, 8),
                torch.ones(1, 1, 8, 8, dtype=torch.bool),
                label=1,
                guidance=INF,
            ),
            "guidance must be a finite number",
        ),
        (
            lambda: inpaint(net(), torch.full((1, 1, 8, 8), NAN), torch.ones(1, 1, 8, 8, dtype=torch.bool)),
            "known pixels are not finite",
        ),
        (lambda: net().chain([1, 1, True]), "whole number"),
        (lambda: sample_composed(net(conditional=True), 2, 3), "give a list of at least one concept"),
        (lambda: sample_composed(net(conditional=True), 2.0, [1]), "n must be a whole number"),
        (lambda: sample_composed(net(conditional=True), 2, [1], batch_size=0), "batch_size must be a whole number"),
        (lambda: sample_composed(net(conditional=True), 2, [1, 2], weights=2.0), "2 labels have 1 and 1 weights"),
        (lambda: sample_composed(net(conditional=True), 2, [1, 2], weights=[], rule="or"), "2 labels have 0 and 0"),
        (
            lambda: concept_evidence(net(conditional=True), torch.zeros(2, 1, 8, 8), [1], batch_size=0),
            "batch_size must be a whole number",
        ),
        (lambda: ood_scores(net(), torch.zeros(2, 1, 8, 8), batch_size=0), "batch_size must be a whole number"),
        (lambda: complete(2, batch_size=-5), "batch_size must be a whole number"),
        (lambda: complete(2, n_particles=2.5), "n_particles must be a whole number"),
        (lambda: complete(0), "images must be a whole number at least 1"),
    ],
)
def test_tasks_say_what_is_wrong(call, message):
    with pytest.raises(ValueError) as e:
        call()
    assert message in str(e.value)


@pytest.mark.parametrize(
    "draw",
    [
        lambda m, **noise: m.sample(2, label=1, **noise),
        lambda m, **noise: sample_composed(m, 2, [1, 2], **noise),
        lambda m, **noise: inpaint(
            m, np.zeros((2, 1, 8, 8), np.float32), np.arange(64).reshape(1, 1, 8, 8) % 2 == 0, **noise
        ),
        lambda m, **noise: concept_evidence(m, np.zeros((2, 1, 8, 8)), [1], **noise),
        lambda m, **noise: ood_scores(m, np.zeros((2, 1, 8, 8)), n_noise=1, **noise)["score_norm_1"],
    ],
    ids=["sample", "sample_composed", "inpaint", "concept_evidence", "ood_scores"],
)
def test_one_rule_for_seeds(draw):
    "Random by default; fixed by a seed; a generator is used and goes on; both are refused."
    model = net(conditional=True)
    assert not torch.equal(draw(model), draw(model))
    generator = torch.Generator().manual_seed(3)
    first, second = draw(model, generator=generator), draw(model, generator=generator)
    assert torch.equal(first, draw(model, seed=3)) and not torch.equal(first, second)
    with pytest.raises(ValueError, match="choose one"):
        draw(model, seed=3, generator=generator)


@pytest.mark.parametrize("n, accepted", [(1, 1), (5, 5), (10, 10), (19, 19), (20, 19), (39, 38), (100, 95), (360, 342)])
def test_at_least_95_percent_of_what_belongs_is_accepted(n, accepted):
    scores = torch.randperm(n).float()
    assert (
        fpr95(scores, scores) == pytest.approx(accepted / n) and accepted >= 0.95 * n
    )  # what is accepted of the same scores is what is kept


# --- metrics


def test_copies_are_at_distance_0():
    g = torch.Generator().manual_seed(0)
    reference = torch.rand(700, 3, 16, 16, generator=g) * 2 - 1
    distance, index = nearest(reference.flip(0), reference)
    assert torch.equal(distance, torch.zeros(700)) and torch.equal(index, torch.arange(700).flip(0))
    moved = reference[:3].clone()
    moved[:, 0, 0, 0] += torch.tensor([0.5, 1e-3, 2.0])
    assert torch.allclose(nearest(moved, reference)[0], torch.tensor([0.5, 1e-3, 2.0]), rtol=1e-3)


def test_kid_has_a_spread_and_few_samples_are_refused():
    g = torch.Generator().manual_seed(0)
    a, b, logits = torch.randn(300, 8, generator=g), torch.randn(200, 8, generator=g), torch.randn(300, 10, generator=g)
    scores = inception_scores(a, b, logits)
    assert scores["KID_subset"] == 100 and scores["KID_std"] > 1e-3
    with pytest.raises(ValueError, match="at least 10 samples, got 9; draw more"):
        inception_scores(a[:9], b, logits[:9])
    assert inception_scores(a[:10], b[:4], logits[:10])["KID_subset"] == 2


@pytest.mark.parametrize(
    "file, text, message",
    [
        ("classifier.json", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 67\n", "git lfs pull"),
        (
            "classifier.safetensors",
            "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 67\n",
            "git lfs pull",
        ),
        ("classifier.json", "{", "does not describe a classifier"),
        ("classifier.json", "[]", "does not describe a classifier"),
        ("classifier.json", '{"shape": [1, 8, 8]}', "does not describe a classifier"),
        ("classifier.json", '{"shape": [1, 8, 8], "n_class": 3, "width": 8}', "does not fit classifier.json"),
        ("classifier.safetensors", "x", "does not fit classifier.json"),
        ("classifier.safetensors", None, "classifier.safetensors is missing"),
    ],
)
def test_a_classifier_that_cannot_be_read(tmp_path, file, text, message):
    save_classifier(SmallClassifier((1, 8, 8), 10, width=8), tmp_path)
    load_classifier(tmp_path)
    (tmp_path / file).unlink()
    if text is not None:
        (tmp_path / file).write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_classifier(tmp_path)


@pytest.mark.parametrize("preset, shape", [("digits", (1, 8, 8)), ("checkerboard", (2,))])
def test_a_model_in_double_precision_is_the_same_model(preset, shape):
    model = build_model(get_config(preset, **NETWORKS), shape, 0)
    with torch.no_grad():
        for buffer in model.base.buffers():
            buffer.add_(0.1 * torch.rand_like(buffer))
    twice, x = copy.deepcopy(model).double(), model.sample(3, seed=0, n_langevin=1)
    assert model.base is not None and x.dtype == torch.float32
    assert twice.sample(3, seed=0, n_langevin=1).dtype == twice.log_density(x).dtype == torch.float64
    assert torch.allclose(twice.log_density(x).float(), model.log_density(x), rtol=1e-4)
    y = 0.5 * x
    assert torch.allclose(twice.score(1)(y.double()).float(), model.score(1)(y), rtol=1e-3, atol=1e-3)
