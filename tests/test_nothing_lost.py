"""Killed at random moments, on a full disk, with a damaged checkpoint, by two processes at once: nothing is lost and
every error is clear."""

import os
import random
import time

import pytest
import torch
from conftest import TINY
from tiny import NETWORKS
from workers import refusal, start, train

from cdrl.config import get_config
from cdrl.datasets import load_dataset
from cdrl.lab.runs import lock_folder, open_run
from cdrl.trainer import Trainer


def begin(folder):
    "A process that trains in a folder, once it is at it, and what it has printed."
    folder.mkdir(exist_ok=True)
    said = folder.with_suffix(".txt")
    said.unlink(missing_ok=True)
    process = start(train, folder, said)
    while not said.exists() or "\nfrom " not in "\n" + said.read_text():
        assert process.is_alive(), f"the worker ended with code {process.exitcode}"
        time.sleep(0.005)
    return process, said.read_text()


@pytest.mark.long
def test_killed_at_ten_random_moments_is_bit_identical(tmp_path):
    whole, _ = begin(tmp_path / "whole")
    begun = time.time()
    whole.join(300)
    longest = (time.time() - begun) / 20  # twelve kills end before the training does
    assert whole.exitcode == 0
    kills, moments, chance = 0, [], random.SystemRandom()
    while not (tmp_path / "killed/done.pt").exists():
        process, said = begin(tmp_path / "killed")
        if kills == 6:
            assert "is truncated or altered" in said  # damaged after the sixth kill, below
        if kills < 12:
            moments.append((said, delay := chance.uniform(0, longest)))
            time.sleep(delay)
            process.kill()
            process.join()
            kills += 1
            if kills == 6:
                last = sorted((tmp_path / "killed").glob("checkpoint-*"))[-1]
                data = bytearray(last.read_bytes())
                data[len(data) // 2] ^= 1
                last.write_bytes(data)
        else:
            process.join(300)
            assert process.exitcode == 0
    a, b = (torch.load(tmp_path / f / "done.pt", weights_only=True) for f in ("whole", "killed"))
    assert kills >= 10, moments
    assert all(torch.equal(x, y) for x, y in zip(a["weights"], b["weights"])) and a["history"] == b["history"], moments
    assert not list((tmp_path / "killed").glob(".*partial")) and len(
        list((tmp_path / "killed").glob("checkpoint-*"))
    ) in (3, 4)  # killed after the very last save and before the oldest went: one more


def test_a_second_process_on_the_same_run_is_refused(tmp_path):
    run = open_run(tmp_path / "reports", "busy", "", {})
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints/checkpoint-00000001-0.pt").write_bytes(b"")
    assert f"run 'busy' is in use by process {os.getpid()}" in refusal(tmp_path / "reports", "busy")
    run.close()
    lock_folder(run.folder).close()


@pytest.mark.long
def test_two_devices_through_the_notebook(here, refused):
    run = here("train", n_devices=2, **TINY) / "digits"
    assert {"metrics.json", "history.csv", "quality.csv"} <= {p.name for p in run.iterdir()}
    assert "n_devices is 99; this machine has" in refused("train", n_devices=99, run="many", **TINY)


@pytest.mark.parametrize("begun, elsewhere", [("avx512_bf16", "avx2"), ("avx2", "avx512_bf16")])
def test_a_run_keeps_its_precision_on_another_processor(monkeypatch, tmp_path, begun, elsewhere):
    small = dict(
        NETWORKS,
        batch_size=8,
        precision="auto",
    )

    def trainer(processor):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {processor: True}, raising=False)
        return Trainer(get_config("digits", **small), load_dataset("digits"))

    first, second = trainer(begun), trainer(elsewhere)
    assert first.precision != second.precision
    torch.save(first.state(), tmp_path / "state.pt")
    second.load_checkpoint(tmp_path / "state.pt")
    assert second.precision == first.precision and second.dtype == first.dtype
