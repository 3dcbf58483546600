"""Shared helpers: experiments are run through papermill, in a fresh folder, with parameters that make them tiny.

Starting a process and importing PyTorch takes seconds. So every experiment is run once in a kernel of its own
(`notebook`), and its other runs are in the test's process (`here`). What needs a process that can be killed, or two at
once, takes one of `workers.py`. The imports stand in the fixtures, because pytest-xdist loads this file in one more
process, which runs no tests."""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
from tiny import NETWORKS

ROOT = Path(__file__).resolve().parent.parent
TINY = dict(
    NETWORKS,
    steps=6,
    batch_size=8,
    n_langevin=1,
    n_samples=32,
    n_progress=32,
    n_reference=64,
    snapshots=2,
    checkpoint_every=3,
)


def pytest_collection_modifyitems(items):
    "The longest tests first, or one processor waits for the other at the end: those with a kernel or marked long."
    items.sort(key=lambda item: "notebook" not in item.fixturenames and not item.get_closest_marker("long"))


@pytest.fixture
def notebook(tmp_path):
    """Run `nbs/<name>.ipynb` in a kernel, with parameters; returns the folder of its runs. The executed notebook is
    <folder>/../out.ipynb."""
    import papermill
    from kernels import ForkedKernels

    def run(name, **parameters):
        reports = tmp_path / "reports"
        parameters = {"reports": str(reports), **parameters}
        papermill.execute_notebook(
            ROOT / "nbs" / f"{name}.ipynb",
            tmp_path / "out.ipynb",
            parameters,
            kernel_manager_class=ForkedKernels,
            progress_bar=False,
            cwd=ROOT,
        )
        return reports

    return run


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Run a notebook's code in this process, with its parameters as papermill would set them, where no kernel of its
    own is needed; returns the folder of its runs."""
    import matplotlib.pyplot as plt
    import papermill

    def run(name, **parameters):
        monkeypatch.chdir(ROOT)
        reports = tmp_path / "reports"
        notebook = papermill.parameterize.parameterize_notebook(
            papermill.iorw.load_notebook_node(str(ROOT / "nbs" / f"{name}.ipynb")),
            {"reports": str(reports), **parameters},
        )
        names = {"__name__": "__main__", "display": lambda *shown: None}
        for cell in notebook.cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, f"{name}.ipynb", "exec"), names)
        names.clear()
        gc.collect()  # a kernel that ends closes its lock
        plt.close("all")
        return reports

    return run


@pytest.fixture
def refused(here):
    """What a notebook refuses before any training: the error's text."""

    def run(name, **parameters):
        with pytest.raises(Exception) as e:
            here(name, **parameters)
        return str(e.value)

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A model of the tiny settings, trained in this process, once for all tests; gives its folder."""
    from cdrl.config import Config, get_config
    from cdrl.datasets import load_dataset
    from cdrl.trainer import Trainer

    models, folders = tmp_path_factory.mktemp("models"), {}

    def train(dataset="digits", **settings):
        settings = {k: v for k, v in {**TINY, **settings}.items() if k in Config.__dataclass_fields__}
        config = get_config(dataset, **settings)
        if str(config) not in folders:
            trainer = Trainer(config, load_dataset(config.dataset))
            trainer.fit()
            folders[str(config)] = str(models / str(len(folders)))
            trainer.averaged.save_pretrained(folders[str(config)])
        return folders[str(config)]

    return train
