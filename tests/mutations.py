"""Does anything notice? Each mutation changes one line of the library in a copy of the repository, exports it, and runs the checks that should fail: python tests/mutations.py [NUMBER …] (about 10 minutes for all)."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEP = "tests/test_plain_step.py"
MUTATIONS = [  # what is broken, notebook, line, what it becomes, what must notice: the notebook itself, or a test
    ("the average of the weights is not updated", "09_trainer", "self.ema.update_parameters(self.model)", "None", STEP),
    (
        "the initializer is told λ_t instead of λ_{t+1}",
        "07_model",
        "network or self.initializer, self.schedule.logsnr[1:]",
        "network or self.initializer, self.schedule.logsnr[:-1]",
        STEP,
    ),
    (
        "the weight of a level's loss is ignored",
        "05_recovery",
        "return (weight * (f_neg - f_pos)).mean()",
        "return (f_neg - f_pos).mean()",
        STEP,
    ),
    (
        "how often levels are trained is ignored",
        "09_trainer",
        "torch.tensor(c.level_weights or [1] * c.n_levels",
        "torch.tensor([1] * c.n_levels",
        STEP,
    ),
    ("noise variance reduction is ignored", "00_schedule", "if variance_reduction: x_next", "if True: x_next", STEP),
    (
        "gradients are not clipped",
        "09_trainer",
        "nn.utils.clip_grad_norm_(net.parameters(), self.config.grad_clip)",
        "nn.utils.clip_grad_norm_(net.parameters(), 1e9)",
        STEP,
    ),
    ("flips are ignored", "01_data", "if self.flip:", "if False:", "nbs/01_data.ipynb"),
    (
        "labels of samples are reversed",
        "07_model",
        "replace(self, label=self.label[rows])",
        "replace(self, label=self.label[rows].flip(0))",
        "nbs/07_model.ipynb",
    ),
    (
        "the order of batches is not restored",
        "09_trainer",
        'self.stream.generator.set_state(state[\\"data_rng\\"])',
        "None",
        "nbs/09_trainer.ipynb",
    ),
    (
        "the random state of dropout is not restored",
        "09_trainer",
        'torch.set_rng_state(state[\\"torch_rng\\"])',
        "None",
        "nbs/09_trainer.ipynb",
    ),
    (
        "chains have no tether",
        "05_recovery",
        "return torch.addcmul(score, bcast(tether, y), x_next - y)",
        "return score + 0 * x_next",
        STEP,
    ),
    (
        "the log-density forgets α",
        "07_model",
        "return F(self.schedule.alpha[level] * x)",
        "return F(x)",
        "nbs/07_model.ipynb",
    ),
    (
        "the log-density has the other sign",
        "07_model",
        "return F(self.schedule.alpha[level] * x)",
        "return -F(self.schedule.alpha[level] * x)",
        "nbs/07_model.ipynb",
    ),
    (
        "Metropolis' sum is a mean",
        "06_sampler",
        "(noise ** 2 - back ** 2).flatten(1).sum(1) / 2",
        "(noise ** 2 - back ** 2).flatten(1).mean(1) / 2",
        "nbs/06_sampler.ipynb",
    ),
    (
        "the base forgets its constant",
        "02a_gaussian",
        "return constant + (d * score).sum(1) / 2",
        "return (d * score).sum(1) / 2",
        "nbs/02a_gaussian.ipynb",
    ),
    (
        "the second phase goes on from the last weights",
        "09_trainer",
        "p.data.copy_(average.data)",
        "None",
        "nbs/09_trainer.ipynb",
    ),
    (
        "how far chains reach is a mean over the parts of a batch",
        "08a_parallel",
        "if name in EXTREMES:",
        "if False:",
        "nbs/08a_parallel.ipynb",
    ),
    (
        "passes draw noise of their own",
        "08a_parallel",
        "if k: generator.set_state(start)",
        "None",
        "nbs/08a_parallel.ipynb",
    ),
    (
        "a damaged checkpoint is taken",
        "08c_checkpoints",
        "if self.intact(path):",
        "if True:",
        "nbs/08c_checkpoints.ipynb",
    ),
    (
        "the rate is not lowered after a divergence",
        "08d_guard",
        "config.recovery_factor ** (n + 1)",
        "1",
        "nbs/08d_guard.ipynb",
    ),
]


def mutate(folder: Path, notebook: str, line: str, becomes: str) -> None:
    "Change a line of a notebook's exported cells. Raises `ValueError` unless it stands there exactly once."
    path = folder / "nbs" / f"{notebook}.ipynb"
    book, found = json.loads(path.read_text()), 0
    for cell in book["cells"]:
        source = "".join(cell["source"])
        if source.startswith("#| export") and line.replace('\\"', '"') in source:
            found += 1
            cell["source"] = source.replace(line.replace('\\"', '"'), becomes).splitlines(keepends=True)
    if found != 1:
        raise ValueError(f"{line!r} stands {found} times in the exported cells of {notebook}")
    path.write_text(json.dumps(book))


def noticed(folder: Path, where: str) -> bool:
    "Whether the checks fail in the changed copy."
    env = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    subprocess.run(["nbdev_export"], cwd=folder, env=env, check=True, capture_output=True)
    command = (
        ["pytest", "-q", "-x", where] if where.endswith(".py") else ["nbdev_test", "--n_workers", "1", "--path", where]
    )
    return subprocess.run(command, cwd=folder, env=env, capture_output=True).returncode != 0


def copied(d: str) -> Path:
    "A copy of the repository without what is large."
    folder = Path(d) / "copy"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".git", "reports", "data", "_proc", "_site"))
    (folder / "reports").symlink_to(ROOT / "reports")
    (folder / "data").mkdir()
    return folder


def main() -> None:
    chosen, missed = [int(a) for a in sys.argv[1:]] or range(len(MUTATIONS)), []
    for where in dict.fromkeys(MUTATIONS[k][4] for k in chosen):  # what fails without a mutation notices nothing
        with tempfile.TemporaryDirectory() as d:
            if noticed(copied(d), where):
                sys.exit(f"{where} fails in a copy without any change")
    for k in chosen:
        what, notebook, line, becomes, where = MUTATIONS[k]
        with tempfile.TemporaryDirectory() as d:
            folder = copied(d)
            mutate(folder, notebook, line, becomes)
            seen = noticed(folder, where)
        print(f"{k:2} {'noticed' if seen else 'MISSED '}  {what}  ({where})", flush=True)
        if not seen:
            missed.append(what)
    sys.exit(f"not noticed: {'; '.join(missed)}" if missed else 0)


if __name__ == "__main__":
    main()
