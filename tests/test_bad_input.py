"""One clear error for each wrong input: it names the value and says what is allowed or what to do."""
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cdrl.config import build_model, get_config
from cdrl.data import BatchStream, load_dataset
from cdrl.ebm import EBM
from cdrl.experiment import open_run, pick_device, read_report
from cdrl.layers import EnergyBlock
from cdrl.metrics import InceptionFeatures, frechet_distance, load_classifier, precision_recall
from cdrl.model import CDRL
from cdrl.schedule import Schedule
from cdrl.trainer import Checkpoints, DivergenceError, Trainer
from made_data import idx

SMALL = dict(ebm_channels=8, ebm_channel_mult=[1], ebm_n_blocks=1, init_channels=8, init_channel_mult=[1], init_n_blocks=1, batch_size=8, n_langevin=1)


def model(**kw): return build_model(get_config("digits", **SMALL, **kw), (1, 8, 8), 10)


@pytest.mark.parametrize("error, message, call", [
    (ValueError, "choose one of checkerboard, digits", lambda: get_config("mnist-like")),
    (ValueError, "'lr' is unknown", lambda: get_config("digits", lr=1.0)),
    (ValueError, "expected a int", lambda: get_config("digits", steps=1.5)),
    (ValueError, "expected a bool", lambda: get_config("digits", conditional=1)),
    (ValueError, "expected numbers such as", lambda: get_config("digits", ebm_channel_mult="a,b")),
    (ValueError, "must be in 0 … 1", lambda: get_config("digits", label_dropout=1.5)),
    (ValueError, "choose one of paper, posterior", lambda: get_config("digits", step_size="big")),
    (ValueError, "choose one of langevin, noise", lambda: get_config("digits", energy_scale="none")),
    (ValueError, "choose one of cooperative, clean, frozen, absent", lambda: get_config("digits", initializer="none")),
    (ValueError, "must be larger than logsnr_min", lambda: get_config("digits", logsnr_max=-6.0)),
    (ValueError, "must not exceed warmup", lambda: get_config("digits", init_warmup_offset=900)),
    (ValueError, "but ebm_lr is 0", lambda: get_config("digits", warm_start=0.5, ebm_lr=0.0)),
    (ValueError, "n_levels = 6 numbers", lambda: get_config("digits", level_weights=[1, 1])),
    (ValueError, "must not be all 0", lambda: get_config("digits", level_weights=[0] * 6)),
    (ValueError, "choose one of fp32, bf16", lambda: get_config("digits", precision="fp16")),
    (ValueError, "has no labels", lambda: build_model(get_config("checkerboard", conditional=True), (2,), 0)),
    (ValueError, "choose fewer factors", lambda: build_model(get_config("digits", init_channel_mult=[1] * 5), (1, 8, 8), 10)),
    (ValueError, "must divide", lambda: build_model(get_config("digits", init_channels=12), (1, 8, 8), 10)),
    (ValueError, "at least 1", lambda: Schedule(0)),
    (ValueError, "choose one of silu", lambda: EBM((1, 8, 8), act="tanh")),
    (ValueError, "choose one of add, film", lambda: EnergyBlock(8, 8, 8, conditioning="x")),
    (ValueError, "at least one sample", lambda: model().sample(0)),
    (ValueError, "0 … 9", lambda: model(conditional=True).sample(1, label=10)),
    (ValueError, "no classes", lambda: model().sample(1, label=1)),
    (ValueError, "conditional model and a label", lambda: model().sample(1, guidance=1.0)),
    (ValueError, "6 of them", lambda: model().sample(1, n_langevin=[1, 2])),
    (ValueError, "0 … 5", lambda: model().log_density(torch.zeros(1, 1, 8, 8), level=6)),
    (ValueError, "this model's are (1, 8, 8)", lambda: model().log_density(torch.zeros(1, 3, 8, 8))),
    (FileNotFoundError, "config.json is missing", lambda: CDRL.from_pretrained("/nowhere")),
    (FileNotFoundError, "nowhere", lambda: CDRL.from_official("/nowhere/x.pth.tar")),
    (FileNotFoundError, "papermill nbs/classifier.ipynb", lambda: load_classifier("/nowhere")),
    (ValueError, "choose train or test", lambda: load_dataset("digits", "val")),
    (ValueError, "folder:PATH", lambda: load_dataset("cifar-10")),
    (FileNotFoundError, "data_batch_1", lambda: load_dataset("cifar10", root="/nowhere")),
    (FileNotFoundError, "needs an account", lambda: load_dataset("imagenet32", root="/nowhere")),
    (FileNotFoundError, "list_attr_celeba.txt", lambda: load_dataset("celeba64", root="/nowhere")),
    (FileNotFoundError, "at least 10", lambda: load_dataset("folder:/nowhere")),
    (ValueError, "larger than the dataset", lambda: BatchStream(load_dataset("digits"), 9999, torch.Generator())),
    (ValueError, "recoveries is 200; it must be in 0 … 100", lambda: get_config("digits", recoveries=200)),
    (ValueError, "must divide batch_size", lambda: get_config("digits", accumulate=5)),
    (FileNotFoundError, "npm pack emoji-datasource-google@16", lambda: load_dataset("emoji", root="/nowhere")),
    (FileNotFoundError, "train_32x32.mat", lambda: load_dataset("svhn", root="/nowhere")),
    (FileNotFoundError, "cifar-100-python/meta", lambda: load_dataset("cifar100", root="/nowhere")),
    (FileNotFoundError, "list_attr_celeba.txt", lambda: load_dataset("celeba64:all", root="/nowhere")),
    (ValueError, "run name '..' is not allowed", lambda: open_run("/tmp", "..", "", {})),
    (FileNotFoundError, "nothing to resume", lambda: open_run("/tmp/none", "x", "", {}, resume=True)),
    (FileNotFoundError, "no intact checkpoint", lambda: Checkpoints("/nowhere").newest()),
    (FileNotFoundError, "no Inception weights at /nowhere", lambda: InceptionFeatures("/nowhere")),
    (ValueError, "device 'tpu' is unknown", lambda: pick_device("tpu")),
    (FileNotFoundError, "reports/none", lambda: read_report("none")),
    (ValueError, "at least two samples", lambda: frechet_distance(torch.zeros(1, 2), torch.zeros(5, 2))),
    (ValueError, "more than 5", lambda: precision_recall(torch.zeros(5, 2), torch.zeros(9, 2))),
])
def test_message(error, message, call):
    with pytest.raises(error) as e: call()
    assert message in str(e.value)


def test_truncated_fashion_mnist(tmp_path):
    raw = tmp_path / "MNIST/raw"
    for part, n in (("train", 20), ("t10k", 10)):
        idx(raw / f"{part}-images-idx3-ubyte", np.full((n, 28, 28), 7, np.uint8)); idx(raw / f"{part}-labels-idx1-ubyte", np.arange(n, dtype=np.uint8) % 10)
    data = load_dataset("mnist", root=tmp_path)
    assert (len(data), data.shape) == (20, (1, 32, 32)) and data.x[0, 0, :2].max() == 0 and data.x[0, 0, 2, 2] == 7
    images = raw / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated or altered"): load_dataset("mnist", root=tmp_path)


def test_image_that_is_none(tmp_path):
    for i in range(12): Image.new("RGB", (8, 8)).save(tmp_path / f"{i:02}.png")
    (tmp_path / "05.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match="05.png"): load_dataset(f"folder:{tmp_path}")


def test_nan_stops_before_the_checkpoint(tmp_path):
    trainer = Trainer(get_config("digits", **SMALL, steps=20), load_dataset("digits"), log_every=5)
    kept = Checkpoints(tmp_path)
    trainer.fit(5); kept.save(trainer)
    good = kept.newest()
    with torch.no_grad(): trainer.model.ebm.head.weight.fill_(float("nan"))
    with pytest.raises(DivergenceError, match="a lower ebm_lr"): trainer.fit(callbacks=[(5, kept.save)])
    assert kept.all() == [good]


def test_run_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="choose another one with -p reports"): open_run(tmp_path / "file", None, "digits", {})


def test_seeds_reproduce_bit_for_bit():
    def weights(seed):
        t = Trainer(get_config("digits", **SMALL, steps=4, seed=seed), load_dataset("digits"))
        t.fit()
        return torch.cat([p.detach().flatten() for p in t.averaged.parameters()])
    a, b, c = weights(0), weights(0), weights(1)
    assert torch.equal(a, b) and not torch.equal(a, c)
