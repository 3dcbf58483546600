"""What tests do in processes of their own: to be killed, or two at the same time. The processes are forked from a
server that has imported the package, so that starting one takes no seconds."""

import contextlib
import multiprocessing
import os

from tiny import NETWORKS

PROCESSES = multiprocessing.get_context("forkserver")
IMPORTED = ["cdrl.lab.compare", "cdrl.lab.launch", "ipykernel.kernelapp", "sklearn.datasets", "torch._dynamo"]
PROCESSES.set_forkserver_preload(IMPORTED)
SMALL = dict(
    NETWORKS,
    init_dropout=0.1,
    batch_size=8,
    n_langevin=1,
    conditional=True,
    steps=300,
)


def start(work, *args):
    "A process that runs `work(*args)`, a function of this file."
    process = PROCESSES.Process(target=work, args=args)
    process.start()
    return process


def train(folder, said):
    "Train from the newest checkpoint of a folder to the end; what is printed is in the file `said`."
    import torch

    from cdrl.checkpoints import Checkpoints
    from cdrl.config import get_config
    from cdrl.datasets import load_dataset
    from cdrl.trainer import Trainer

    with open(said, "w", buffering=1) as out, contextlib.redirect_stdout(out):
        trainer, kept = Trainer(get_config("digits", **SMALL), load_dataset("digits"), log_every=7), Checkpoints(folder)
        if kept.all():
            trainer.load_checkpoint(kept.newest())
        print("from", trainer.step)
        trainer.fit(callbacks=[(4, kept.save)], checkpoints=kept)
    weights = [p.detach() for p in trainer.ema.parameters()]
    history = [{k: v for k, v in h.items() if k != "seconds"} for h in trainer.history]
    torch.save(dict(weights=weights, history=history), folder / "done.pt")


def resume(reports, name, said):
    "Tell why a run cannot be resumed."
    from cdrl.lab.runs import open_run

    try:
        open_run(reports, name, "", {}, resume=True)
    except Exception as e:
        said.put(str(e))
    else:
        said.put("it can")


def refusal(reports, name):
    "Why another process cannot resume a run."
    said = PROCESSES.SimpleQueue()
    process = start(resume, reports, name, said)
    process.join()
    assert process.exitcode == 0
    return said.get()


def load(name, root, together, checksums, there, environment):
    """Load a dataset at the same moment as another process, and tell its checksum; with `there`, what torchvision must
    know of a server, download it."""
    from torchvision import datasets as tvd

    from cdrl.datasets import load_dataset

    os.environ.update(environment)
    dataset = {"mnist": tvd.MNIST, "cifar10": tvd.CIFAR10, "svhn": tvd.SVHN}.get(name)
    for attribute, value in (there or {}).items():
        setattr(dataset, attribute, value)
    together.wait(60)
    checksums.put(load_dataset(name, "train", root, download=there is not None).checksum())


def two_at_once(name, root, there=None, **environment):
    """Checksums of two processes that load the same set at once, or download it if `there` says from where; they must
    not fail."""
    together, checksums = PROCESSES.Barrier(2), PROCESSES.SimpleQueue()
    both = [start(load, name, root, together, checksums, there, environment) for _ in range(2)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    return [checksums.get() for _ in both]
