"""Two iterations of Algorithm 1, read off the paper line by line, without any of the package's schedule, losses, sampler or optimiser: the trainer must give the same weights."""

import copy
import math

import pytest
import torch

from cdrl.config import ALGORITHM_1, get_config
from cdrl.datasets import load_dataset
from cdrl.trainer import Trainer

NETWORKS = dict(
    ebm_channels=8,
    ebm_channel_mult=[1, 2],
    ebm_n_blocks=1,
    ebm_spectral=False,
    init_channels=8,
    init_channel_mult=[1],
    init_n_blocks=1,
    init_groups=4,
    init_dropout=0.0,
    energy_scale="langevin",
    step_size="paper",
    conditional=True,
    label_dropout=0.4,
    batch_size=24,
    n_langevin=3,
    n_levels=4,
    logsnr_max=7.0,
    warmup=4,
    init_warmup_offset=2,
    decay_from=1.0,
    ebm_lr=3e-4,
    ebm_beta1=0.5,
    init_lr=2e-4,
    grad_clip=0.7,
    ema=0.8,
    steps=100,
    seed=5,
    **ALGORITHM_1,
)


def levels(c):
    "Numbers of each level as the paper defines them (section 2), in Python's own arithmetic."
    b = math.atan(math.exp(-c.logsnr_max / 2))
    a = math.atan(math.exp(-c.logsnr_min / 2)) - b
    lam = [-2 * math.log(math.tan(a * t / c.n_levels + b)) for t in range(c.n_levels + 1)]
    keep, noise = [1 / (1 + math.exp(-v)) for v in lam], [1 / (1 + math.exp(v)) for v in lam]  # ᾱ², σ̄²
    rows = []
    for t in range(c.n_levels):
        top = t == c.n_levels - 1
        alpha2 = keep[t + 1] / keep[t]
        sigma2 = 1 - alpha2
        alpha = 1.0 if top else math.sqrt(alpha2)
        rows.append(
            dict(
                lam=lam[t],
                lam_next=lam[t + 1],
                alpha=alpha,
                keep=math.sqrt(keep[t]),
                noise=math.sqrt(noise[t]),
                keep_next=math.sqrt(keep[t + 1]),
                noise_next=math.sqrt(noise[t + 1]),
                sigma=math.sqrt(sigma2),
                tether=0.0 if top else 1 / sigma2,
                guess=alpha * math.sqrt(sigma2 * noise[t] / noise[t + 1]),
                s=math.sqrt(c.step_b2 * math.sqrt(noise[t] / noise[0]) * sigma2),
            )
        )
    for row in rows:
        row["weight"] = rows[0]["sigma"] / row["sigma"]
    return {k: torch.tensor([row[k] for row in rows]) for k in rows[0]}


class Plain:
    "The same networks and data, and everything else written out."

    def __init__(self, trainer):
        self.c, self.level = trainer.config, levels(trainer.config)
        self.nets = {k: copy.deepcopy(getattr(trainer.model, k)) for k in ("ebm", "initializer")}
        self.generator = torch.Generator().manual_seed(self.c.seed)
        self.moments = {
            k: [(torch.zeros_like(p), torch.zeros_like(p)) for p in net.parameters()] for k, net in self.nets.items()
        }
        self.average, self.step = {}, 0

    def randn(self, x):
        return torch.randn(x.shape, generator=self.generator)

    def losses(self, x0, label):
        c, ebm, initializer = self.c, self.nets["ebm"], self.nets["initializer"]
        weights = torch.tensor(c.level_weights or [1.0] * c.n_levels)
        t = torch.multinomial(weights, c.batch_size, replacement=True, generator=self.generator)
        of = {k: v[t].reshape(-1, 1, 1, 1) for k, v in self.level.items()}
        lam, lam_next = self.level["lam"][t], self.level["lam_next"][t]
        eps = self.randn(x0)
        x_t, x_next = of["keep"] * x0 + of["noise"] * eps, of["keep_next"] * x0 + of["noise_next"] * eps
        if not c.variance_reduction:
            x_next = (1 - of["sigma"] ** 2).sqrt() * x_t + of["sigma"] * self.randn(x0)
        y_pos = of["alpha"] * x_t
        dropped = torch.rand(len(x0), generator=self.generator) < c.label_dropout
        label = torch.where(dropped, torch.tensor(-1), label)
        y_init = initializer(x_next, lam_next, label) + of["guess"] * self.randn(x0)
        y = y_init.detach()
        for _ in range(c.n_langevin):
            y = y.requires_grad_(True)
            (slope,) = torch.autograd.grad(ebm(y, lam, label).sum(), y)
            drift = slope / of["s"] ** 2 - of["tether"] * (y - x_next)
            y = (y + of["s"] ** 2 / 2 * drift + of["s"] * self.randn(x0)).detach()
        f_pos, f_neg = ebm(y_pos, lam, label), ebm(y, lam, label)
        return dict(
            ebm=(self.level["weight"][t] * (f_neg - f_pos)).sum() / len(x0),
            initializer=(y - y_init).square().sum() / len(x0),
        )

    def iterate(self, x0, label):
        for name, loss in self.losses(x0, label).items():
            parameters = list(self.nets[name].parameters())
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients)]
            norm = math.sqrt(sum(g.double().square().sum().item() for g in gradients))
            self.descend(name, parameters, [g * min(1.0, self.c.grad_clip / (norm + 1e-6)) for g in gradients])
        self.step += 1
        new = [p.detach().clone() for net in self.nets.values() for p in net.parameters()]
        self.average = (
            new if self.step == 1 else [self.c.ema * a + (1 - self.c.ema) * p for a, p in zip(self.average, new)]
        )

    def descend(self, name, parameters, gradients):
        "Adam (Kingma and Ba 2015, algorithm 1) with linear warm-up."
        c, k = self.c, self.step + 1
        rate, beta1, offset = (c.ebm_lr, c.ebm_beta1, 0) if name == "ebm" else (c.init_lr, 0.9, c.init_warmup_offset)
        rate *= min(1.0, (k + offset) / c.warmup)
        for p, g, (m, v) in zip(parameters, gradients, self.moments[name]):
            m.mul_(beta1).add_(g, alpha=1 - beta1)
            v.mul_(0.999).addcmul_(g, g, value=0.001)
            with torch.no_grad():
                p -= rate * (m / (1 - beta1**k)) / ((v / (1 - 0.999**k)).sqrt() + 1e-8)


@pytest.mark.parametrize(
    "settings",
    [{}, dict(level_weights=[3, 0, 1, 0.5]), dict(variance_reduction=False), dict(grad_clip=1e-3), dict(grad_clip=1e6)],
)
def test_the_trainer_is_the_plain_reading(settings):
    data = load_dataset("digits")
    trainer = Trainer(get_config("digits", **{**NETWORKS, **settings}), data)
    torch.nn.init.normal_(
        trainer.model.initializer.final.weight, std=0.1
    )  # or half of the network would have no gradient yet
    trainer.ema.module.load_state_dict(trainer.model.state_dict())
    plain, batches = Plain(trainer), Trainer(get_config("digits", **{**NETWORKS, **settings}), data).stream
    for _ in range(3):
        trainer.train_step()
        plain.iterate(*batches.next())
    ours = [p.detach() for net in (trainer.model.ebm, trainer.model.initializer) for p in net.parameters()]
    theirs = [p.detach() for net in plain.nets.values() for p in net.parameters()]
    kept = [p.detach() for net in (trainer.averaged.ebm, trainer.averaged.initializer) for p in net.parameters()]
    moved = [(a - b).abs().max() for a, b in zip(ours, kept)]
    assert max(moved) > 1e-5  # the average lags behind
    for ours_, theirs_ in ((ours, theirs), (kept, plain.average)):
        off = torch.cat([(a - b).abs().flatten() for a, b in zip(ours_, theirs_)])
        assert (
            (off < 2e-6).float().mean() > 0.98 and off.mean() < 2e-6
        )  # a gradient of exactly zero is rounding noise, which Adam scales up
