"""Both phases of training, where one process is not the whole story: on two processes, in bf16, with every kind of
initializer, and on points."""

from dataclasses import asdict

import pandas as pd
import pytest
import torch
from conftest import TINY
from tiny import NETWORKS

from cdrl.config import get_config
from cdrl.datasets import load_dataset
from cdrl.lab.launch import launch
from cdrl.lab.runs import open_run
from cdrl.model import CDRL
from cdrl.trainer import Trainer

SMALL = dict(
    NETWORKS,
    batch_size=16,
    n_langevin=2,
    warmup=5,
    ebm_base="gaussian",
    warm_start=0.5,
    recovery_rate=0.5,
    steps=20,
)


@pytest.mark.long
def test_two_processes_train_what_one_does(tmp_path):
    settings = dict(
        SMALL,
        energy_scale="langevin",
        step_size="paper",
        ebm_beta1=0.9,
        ebm_lr=1e-4,
        init_lr=1e-4,
        init_groups=2,
        conditional=True,
    )
    weights = {}
    for n in (1, 2):
        run = open_run(tmp_path, f"on-{n}", "", asdict(get_config("digits", **settings)))
        launch(run, n, snapshots=1, n_progress=32, n_reference=64, log_every=10)
        state = torch.load(run.checkpoints.newest(), weights_only=True)
        run.close()
        assert state["step"] == 20 and ["score_loss" in row for row in state["history"]] == [True, False]
        weights[n] = torch.cat([v.flatten() for v in state["model"].values()])
    assert 0 < (weights[1] - weights[2]).abs().max() < 1e-6


@pytest.mark.parametrize(
    "settings",
    [
        dict(initializer="clean"),
        dict(initializer="frozen"),
        dict(initializer="absent"),
        dict(conditional=True),
        dict(metropolis=True),
        dict(precision="bf16"),
        dict(base_rank=10),
        dict(ebm_base="none"),
        dict(energy_scale="langevin", step_size="paper", ebm_spectral=True, ebm_lr=1e-5),
    ],
)
def test_each_way_to_train_has_both_phases(settings):
    data = load_dataset("digits")
    trainer = Trainer(get_config("digits", **{**SMALL, **settings}), data, log_every=10)
    start = [p.clone() for p in trainer.model.ebm.parameters()]
    first, second = trainer.fit()
    assert "score_loss" in first and "score_loss" not in second and "energy_gap" in second
    assert (
        ("init_loss" in first)
        == ("init_loss" in second)
        == (settings.get("initializer", "cooperative") in ("cooperative", "clean"))
    )
    assert any(not torch.equal(a, b) for a, b in zip(start, trainer.model.ebm.parameters()))
    assert trainer.averaged.sample(4, seed=0).isfinite().all()


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_points_have_a_base_too(share):
    data = load_dataset("checkerboard")
    trainer = Trainer(
        get_config(
            "checkerboard",
            ebm_base="gaussian",
            warm_start=share,
            steps=20,
            warmup=5,
            ebm_channels=16,
            init_channels=16,
            batch_size=64,
        ),
        data,
        log_every=10,
    )
    torch.testing.assert_close(
        trainer.model.base.components @ trainer.model.base.variances.diag() @ trainer.model.base.components.T,
        torch.eye(2) / 3 * 1.0,
        rtol=0,
        atol=0.15,
    )
    trainer.fit()
    assert trainer.model.log_density(data.sample(5)).isfinite().all()


def test_the_training_notebook_shows_both_phases(here):
    run = (
        here(
            "train",
            **{**TINY, "checkpoint_every": 4},
            dataset="digits",
            ebm_base="gaussian",
            base_rank=12,
            warm_start=0.5,
            recovery_rate=0.2,
        )
        / "digits"
    )
    history = pd.read_csv(run / "history.csv")
    assert (
        history.score_loss.notna().any() and history.energy_gap.notna().any() and (run / "figures/history.png").exists()
    )
    model = CDRL.from_pretrained(run / "model")
    assert (
        model.base.components.shape == (64, 12)
        and model.base.variances.min() > 0
        and model.sample(2, seed=0).isfinite().all()
    )
