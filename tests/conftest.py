"""Shared helpers: experiments are run through papermill, in a fresh folder, with parameters that make them tiny."""
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import papermill
import pytest

ROOT = Path(__file__).resolve().parent.parent
TINY = dict(steps=6, batch_size=8, n_langevin=1, ebm_channels=8, ebm_channel_mult=[1], ebm_n_blocks=1, init_channels=8, init_channel_mult=[1], init_n_blocks=1,
            n_samples=32, n_progress=32, n_reference=64, snapshots=2, checkpoint_every=3)


@pytest.fixture
def notebook(tmp_path):
    """Run `nbs/<name>.ipynb` with parameters; returns the folder of its runs. The executed notebook is <folder>/../out.ipynb."""
    def run(name, **parameters):
        reports = tmp_path / "reports"
        parameters = {"reports": str(reports), **parameters}
        papermill.execute_notebook(ROOT / "nbs" / f"{name}.ipynb", tmp_path / "out.ipynb", parameters, progress_bar=False, cwd=ROOT)
        return reports
    return run
