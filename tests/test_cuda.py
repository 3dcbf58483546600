"""What a GPU must do as the processor does: gradients, chains, training, checkpoints, sampling. Skipped where there is none: pytest tests/test_cuda.py."""

import copy

import pytest
import torch

from cdrl.checkpoints import Checkpoints
from cdrl.config import build_model, get_config
from cdrl.datasets import load_dataset
from cdrl.lab.runs import pick_device
from cdrl.layers import frozen
from cdrl.model import CDRL
from cdrl.recorded_gradients import record_chains
from cdrl.sampler import langevin, mala
from cdrl.trainer import Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
PAPER = dict(ebm_channels=32, ebm_n_blocks=2, init_channels=32)


def without_tf32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def relative(a, b):
    return ((a.cpu().double() - b.cpu().double()).norm() / b.cpu().double().norm()).item()


def test_a_gpu_is_picked():
    assert pick_device(None) == "cuda"


@pytest.mark.parametrize(
    "preset, shape, settings",
    [
        ("digits", (1, 8, 8), {}),
        ("checkerboard", (2,), {}),
        ("fashion_mnist", (1, 32, 32), {}),
        ("cifar10", (3, 32, 32), PAPER),
    ],
)
@pytest.mark.parametrize(
    "dtype, most", [(torch.float64, 1e-4), (torch.float32, 3e-3)]
)  # in double, too, the frequencies of the embedding are rounded to single precision
def test_gradients_and_means_are_those_of_the_processor(monkeypatch, preset, shape, settings, dtype, most):
    without_tf32(monkeypatch)
    torch.manual_seed(0)
    model = build_model(get_config(preset, **settings), shape, 0).to(dtype).eval()
    there, y, t = copy.deepcopy(model).cuda(), torch.randn(8, *shape, dtype=dtype), torch.arange(8) % 6
    with frozen(model):
        here = *model.target(t)(y), model.initial_mean(y, t)
    with frozen(there):
        those = *there.target(t.cuda())(y.cuda()), there.initial_mean(y.cuda(), t.cuda())
    for a, b in zip(those, here):
        assert relative(a, b) < most


@pytest.mark.parametrize(
    "preset, shape, settings",
    [
        ("digits", (1, 8, 8), {}),
        ("checkerboard", (2,), {}),
        ("color_digits", (3, 8, 8), {}),
        ("cifar10", (3, 32, 32), PAPER),
    ],
)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_recorded_chains_are_the_plain_ones(monkeypatch, preset, shape, settings, dtype):
    without_tf32(monkeypatch)
    torch.manual_seed(0)
    model = build_model(get_config(preset, **settings), shape, 19).cuda().eval()
    recorded = copy.deepcopy(model)
    record_chains(recorded.ebm)
    for weights in range(2):  # the second time with other weights
        y, t = torch.randn(2, 8, *shape, device="cuda"), torch.randint(6, (2, 8), device="cuda")
        label = torch.randint(19, (2, 8), device="cuda") if model.n_class else (None, None)
        found = []
        for net in (model, recorded):
            with frozen(net):
                first, second = (net.target(t[i], label[i], dtype=dtype) for i in (0, 1))
                found.append([v for f, i in ((first, 0), (second, 1), (first, 1)) for v in f(y[i])])  # in turns
        assert len(recorded.ebm.graphs) == 1
        for a, b in zip(*found):
            assert relative(b, a) < (1e-4 if dtype is None else 2e-2)
        with torch.no_grad():
            for net in (model, recorded):
                for k, p in enumerate(net.ebm.parameters()):
                    p.mul_(1 + 0.1 * (k % 3))
    copied = copy.deepcopy(recorded).cpu()
    assert copied.ebm.graphs == {} and len(recorded.ebm.graphs) == 1
    with frozen(copied):
        here = [copied.target(t[0].cpu(), label[0].cpu() if model.n_class else None)(v.cpu()) for v in y]
    with frozen(model):
        there = [model.target(t[0], label[0])(v) for v in y]
    for a, b in zip(here, there):
        assert relative(a[1], b[1]) < 3e-3  # on the processor nothing is replayed
    with frozen(recorded):
        [recorded.target(t[0, :n], label[0][:n] if model.n_class else None)(y[0, :n]) for n in range(1, 8)]
    assert len(recorded.ebm.graphs) == 4


def test_training_with_and_without_recorded_chains_is_the_same(monkeypatch):
    without_tf32(monkeypatch)
    with_, without = digits(precision="fp32"), digits(precision="fp32", cuda_graphs=False)
    for trainer in (with_, without):
        trainer.fit(5)
    assert with_.model.ebm.graphs and without.model.ebm.graphs is None
    for a, b in zip(with_.model.parameters(), without.model.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-4)
    assert relative(with_.averaged.sample(6, seed=0), without.averaged.sample(6, seed=0)) < 2e-2


@pytest.mark.parametrize("sampler", ["langevin", "mala"])
def test_chains_reach_a_known_normal_distribution(sampler):
    y, s, g = (
        torch.zeros(100_000, 2, device="cuda"),
        torch.full((100_000,), 0.5, device="cuda"),
        torch.Generator("cuda").manual_seed(0),
    )
    if sampler == "langevin":
        y, variance = (
            langevin(lambda y: -y, y, s, 60, g),
            1 / (1 - 0.5**2 / 4),
        )  # of the Euler chain: s² / (1 - (1 - s²/2)²)
    else:
        y, variance = mala(lambda y: (-y.square().sum(1) / 2, -y), y, s, 60, g), 1.0
    assert abs(y.var().item() - variance) < 0.01 and y.mean().abs() < 0.01


def digits(**settings):
    return Trainer(
        get_config("digits_small", **{"steps": 40, "warmup": 10, **settings}),
        load_dataset("digits"),
        "cuda",
        log_every=5,
    )


def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(monkeypatch, tmp_path):
    without_tf32(monkeypatch)
    whole = digits()
    whole.fit(20)
    Checkpoints(tmp_path).save(whole)
    whole.fit(3)
    later = digits()
    later.load_checkpoint(Checkpoints(tmp_path).newest())
    later.fit(3)
    assert later.step == whole.step == 23
    for a, b in zip(later.model.parameters(), whole.model.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_training_time_is_that_of_the_work_and_not_of_its_launch():
    trainer = digits()
    trainer.fit(10)  # warm
    start, end, before = (
        torch.cuda.Event(enable_timing=True),
        torch.cuda.Event(enable_timing=True),
        trainer.train_seconds,
    )
    start.record()
    trainer.fit(20)
    end.record()
    torch.cuda.synchronize()
    assert 0.7 < (trainer.train_seconds - before) / (start.elapsed_time(end) / 1000) <= 1.05


@pytest.mark.parametrize(
    "settings",
    [
        dict(precision="auto"),
        dict(accumulate=2),
        dict(metropolis=True),
        dict(ebm_base="gaussian", warm_start=0.5),
        dict(conditional=True),
        dict(initializer="absent"),
        dict(initializer="clean"),
    ],
)
def test_each_way_to_train_learns_and_samples(settings):
    trainer = digits(**settings)
    history = trainer.fit()
    assert len(trainer.model.ebm.graphs or {}) == 1  # batches have one shape
    assert trainer.precision == ("bf16" if "precision" in settings else "fp32") and trainer.step == 40
    assert all(torch.isfinite(torch.tensor(r.get("ebm_loss", r.get("score_loss")))) for r in history)
    label = torch.arange(12) % 10 if settings.get("conditional") else None
    x = trainer.averaged.sample(12, label, guidance=0.5 if label is not None else 0.0, seed=1, batch_size=5)
    assert x.is_cuda and x.shape == (12, 1, 8, 8) and x.isfinite().all() and x.std() > 0.05


def test_two_passes_give_the_step_of_one(monkeypatch):
    without_tf32(monkeypatch)
    one, two = digits(batch_size=32), digits(batch_size=32, accumulate=2)
    for trainer in (one, two):
        trainer.train_step()
    for a, b in zip(one.model.ebm.parameters(), two.model.ebm.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-2, atol=1e-4)


def test_a_model_trained_on_the_gpu_samples_on_the_processor(tmp_path):
    trainer = digits()
    trainer.fit()
    trainer.averaged.save_pretrained(tmp_path)
    here, there = CDRL.from_pretrained(tmp_path), CDRL.from_pretrained(tmp_path, "cuda")
    assert here.sample(4, seed=0).shape == (4, 1, 8, 8) and torch.equal(
        there.sample(4, seed=0), there.sample(4, seed=0)
    )
    x = torch.rand(5, 1, 8, 8) * 2 - 1
    assert relative(there.log_density(x), here.log_density(x)) < 1e-2
