"""Shared helpers: experiments are run through papermill, in a fresh folder, with parameters that make them tiny."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import papermill
import pytest

from cdrl.config import Config, get_config
from cdrl.datasets import load_dataset
from cdrl.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
TINY = dict(
    steps=6,
    batch_size=8,
    n_langevin=1,
    ebm_channels=8,
    ebm_channel_mult=[1],
    ebm_n_blocks=1,
    init_channels=8,
    init_channel_mult=[1],
    init_n_blocks=1,
    n_samples=32,
    n_progress=32,
    n_reference=64,
    snapshots=2,
    checkpoint_every=3,
)


@pytest.fixture
def notebook(tmp_path):
    """Run `nbs/<name>.ipynb` with parameters; returns the folder of its runs. The executed notebook is <folder>/../out.ipynb."""

    def run(name, **parameters):
        reports = tmp_path / "reports"
        parameters = {"reports": str(reports), **parameters}
        papermill.execute_notebook(
            ROOT / "nbs" / f"{name}.ipynb", tmp_path / "out.ipynb", parameters, progress_bar=False, cwd=ROOT
        )
        return reports

    return run


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Run a notebook's code in this process, with its parameters as papermill would set them, where no kernel of its own is needed; returns the folder of its runs."""

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


@pytest.fixture
def trained(tmp_path):
    """A model of the tiny settings, trained in this process; gives its folder."""

    def train(dataset="digits", **settings):
        settings = {k: v for k, v in {**TINY, **settings}.items() if k in Config.__dataclass_fields__}
        config = get_config(dataset, **settings)
        trainer = Trainer(config, load_dataset(config.dataset))
        trainer.fit()
        folder = tmp_path / "models" / str(len(list((tmp_path / "models").glob("*"))))
        trainer.averaged.save_pretrained(folder)
        return str(folder)

    return train
