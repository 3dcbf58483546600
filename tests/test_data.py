"""Every loader on files in its set's true format; conversion of an ImageNet-sized set in little memory."""

import gzip
import hashlib
import http.server
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from made_data import MAKERS, make_emoji, make_imagenet32
from PIL import Image
from torchvision import datasets as tvd
from workers import two_at_once

from cdrl.data import BatchStream, fingerprint_difference
from cdrl.datasets import load_dataset, resolve_dataset
from cdrl.files import read_pickle
from cdrl.pictures import as_rgb

EXPECTED = {  # images in the training set, shape, classes
    "mnist": (40, (1, 32, 32), 10),
    "fashion_mnist": (40, (1, 32, 32), 10),
    "cifar10": (100, (3, 32, 32), 10),
    "cifar100": (40, (3, 32, 32), 100),
    "svhn": (30, (3, 32, 32), 10),
    "imagenet32": (200, (3, 32, 32), 1000),
    "celeba64": (40, (3, 64, 64), 2),
}


@pytest.mark.parametrize("name", MAKERS)
def test_loader(tmp_path, name):
    MAKERS[name](tmp_path)
    data, test = (load_dataset(name, s, tmp_path) for s in ("train", "test"))
    assert (len(data), data.shape, data.n_class) == EXPECTED[name] and test.shape == data.shape and len(test) > 0
    x, y = data.batch(range(20))
    assert (
        x.shape == (20, *data.shape)
        and -1 <= x.min() < -0.3
        and 0.3 < x.max() <= 1
        and 0 <= y.min()
        and y.max() < data.n_class
    )
    assert load_dataset(name, "train", tmp_path).checksum() == data.checksum() != test.checksum()


def test_labels_of_imagenet_and_svhn_are_shifted(tmp_path):
    make_imagenet32(tmp_path, npz=True)
    with np.load(tmp_path / "imagenet32/val_data.npz") as z:
        labels, data = z["labels"], z["data"]
    test = load_dataset("imagenet32", "test", tmp_path)
    assert (test.y == labels - 1).all() and (test.x[:].reshape(-1, 3072) == data).all()
    MAKERS["svhn"](tmp_path)
    assert load_dataset("svhn", "train", tmp_path).y[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


def test_celeba_attributes(tmp_path):
    MAKERS["celeba64"](tmp_path)
    smiling, every = (
        load_dataset("celeba64:Smiling", "train", tmp_path),
        load_dataset("celeba64:all", "train", tmp_path),
    )
    assert smiling.classes == ("not Smiling", "Smiling") and every.y.shape == (40, 40) and every.n_class == 80
    assert ((every.y - 2 * np.arange(40))[:, 1] == smiling.y).all()
    import torch

    _, y = BatchStream(every, 40, torch.Generator().manual_seed(0)).next()
    assert y.shape == (40,) and len(set((y // 2).tolist())) > 10  # one random attribute of each face


MEMORY = """
import json, re, sys, time
from pathlib import Path
import torch
from cdrl.data import BatchStream
from cdrl.datasets import load_dataset
root, start = Path(sys.argv[1]), time.time()
data = load_dataset("imagenet32", "train", root)
converted, start = time.time() - start, time.time()
stream = BatchStream(data, 250, torch.Generator().manual_seed(0), flip=True)
for _ in range(len(data) // 250): stream.next()
loaded = time.time() - start
peak_kb = int(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1])
found = dict(n=len(data), conversion=len(data) / converted, loading=len(data) / loaded, peak_mb=peak_kb / 1024)
print(json.dumps(found))
"""


@pytest.mark.long
def test_100_000_images_in_less_than_a_gigabyte(tmp_path):
    make_imagenet32(tmp_path, 10_000)
    r = json.loads(
        subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True).stdout
    )
    print(r)
    assert r["n"] == 100_000 and r["peak_mb"] < 1024


PICKLES = sorted((Path(__file__).parent / "pickles").glob("*.pkl"))


@pytest.mark.parametrize("path", PICKLES, ids=lambda p: p.stem)
def test_pickles_of_every_python_and_numpy(path):
    batch = read_pickle(path)
    assert batch["data"].dtype == np.uint8 and batch["data"].tolist() == batch["fortran"].tolist() == [
        [0, 1, 2],
        [3, 4, 5],
    ]
    assert (
        batch["labels"] == [3, 7]
        and batch["fine"].tolist() == [3, 300]
        and batch["mean"].tolist() == [0.5, 2.0]
        and batch["filenames"] == ["a.png", "b.png"]
    )


def test_pickles_are_there():
    assert len(PICKLES) == 13


POINTERS = b"A" * 8  # an array of objects would follow them


def named(module, name):
    return f"c{module}\n{name}\n".encode()  # GLOBAL


def plain(value):
    return pickle.dumps(value, 3)[2:-1]  # without its head and its end


def dtype_of(code):
    return named("numpy", "dtype") + plain((code, False, True)) + b"R"


def frombuffer(dtype, data=POINTERS):
    return named("numpy.core.numeric", "_frombuffer") + b"(" + plain(data) + dtype + plain((1,)) + plain("C") + b"tR"


def state(dtype, data=POINTERS):
    return b"(K\x01" + plain((1,)) + dtype + b"\x89" + plain(data) + b"tb"


NDARRAY = named("numpy", "ndarray")
BLANK = named("numpy.core.multiarray", "_reconstruct") + b"(" + NDARRAY + plain((0,)) + plain(b"b") + b"tR"
FIELDS = (
    b"(K\x03"
    + plain("|")
    + b"N"
    + plain(("a",))
    + b"}"
    + plain("a")
    + dtype_of("O")
    + b"K\x00\x86s"
    + b"K\x08K\x01K\x3ft"
)  # {a: (object, 0)}
U8_FIELDS = (
    b"(K\x03"
    + plain("|")
    + b"N"
    + plain(("a",))
    + b"}"
    + plain("a")
    + dtype_of("u8")
    + b"K\x00\x86s"
    + b"K\x08K\x01K\x3ft"
)
DEEP = b"\x85" * 300_000  # a tuple in a tuple in …: from 200,000 on Python's own unpickler crashes
ATTACKS = {  # what the file does: (its instructions, the words of the refusal)
    "array over pointers": (NDARRAY + plain(((1,), "O", POINTERS)) + b"R", "not callable"),
    "the same by NEWOBJ": (NDARRAY + plain(((1,), "O", POINTERS)) + b"\x81", "instruction 129"),
    "the same by NEWOBJ_EX": (NDARRAY + plain(((1,), "O", POINTERS)) + b"}\x92", "instruction 146"),
    "buffer of objects": (frombuffer(dtype_of("O")), "dtype 'O' is not allowed"),
    "buffer of fields": (frombuffer(named("numpy", "dtype") + plain(([("a", "O")],)) + b"R"), "is not allowed"),
    "buffer of text": (frombuffer(dtype_of("U2")), "dtype 'U2' is not allowed"),
    "buffer without a dtype": (frombuffer(plain("O")), "without a dtype"),
    "buffer without bytes": (frombuffer(dtype_of("u8"), 1 << 40), "without bytes"),
    "dtype altered before the array": (frombuffer(dtype_of("V8") + FIELDS + b"b"), "dtype 'V8' is not allowed"),
    "dtype altered after the array": (
        b"(" + dtype_of("V8") + b"q\x01" + frombuffer(b"h\x01") + b"h\x01" + FIELDS + b"b0t",
        "dtype 'V8' is not allowed",
    ),
    "dtype of numbers altered": (
        b"(" + dtype_of("u8") + b"q\x01" + frombuffer(b"h\x01") + b"h\x01" + U8_FIELDS + b"b0t",
        "one with fields",
    ),
    "state with objects": (BLANK + state(dtype_of("O")), "dtype 'O' is not allowed"),
    "state with too little": (BLANK + state(dtype_of("u8"), b"abc"), "buffer size must be a multiple"),
    "state of a function": (
        named("numpy.core.multiarray", "_reconstruct") + b"}" + plain("x") + plain(1) + b"sb",
        "but for arrays",
    ),
    "state of a class": (named("numpy", "dtype") + b"N}" + plain("x") + plain(1) + b"s\x86b", "but for arrays"),
    "deep key": (b"})" + DEEP + b"K\x01s", "a key that is no string"),
    "deep key among others": (b"}()" + DEEP + b"K\x01u", "a key that is no string"),
    "deep key of an old dictionary": (b"()" + DEEP + b"K\x01d", "a key that is no string"),
    "deep member of a set": (b"\x8f()" + DEEP + b"\x90", "instruction 143"),
    "a command": (named("posix", "system") + plain(("exit 1",)) + b"R", "posix.system is not allowed"),
    "a command by INST": (b"(" + plain("exit 1") + b"iposix\nsystem\n", "instruction 105"),
    "an attribute of a module": (b"\x8c\x05numpy\x8c\x0acore.array\x93", "numpy.core.array is not allowed"),
    "nothing": (b"", "IndexError"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_pickle_that_would_crash(tmp_path, attack):
    instructions, words = ATTACKS[attack]
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x04" + instructions + b".")
    with pytest.raises(ValueError, match="data_batch_1 is no data file") as e:
        read_pickle(tmp_path / "data_batch_1")
    assert words in str(e.value)


def test_pickle_that_would_take_all_memory(tmp_path):
    huge = named("numpy.core.multiarray", "_reconstruct") + b"(" + NDARRAY + plain((1 << 45,)) + plain(b"b") + b"tR"
    entries = {"blank array": huge, "memo": b"K\x01r\xff\xff\xff\x7f", "after": b"K\x07"}
    (tmp_path / "a").write_bytes(b"\x80\x04}(" + b"".join(plain(k) + v for k, v in entries.items()) + b"u.")
    assert read_pickle(tmp_path / "a") == {"blank array": None, "memo": 1, "after": 7}


def copies(root, *paths):
    """Ten pictures at each path, or one where the path has a suffix."""
    for i, p in enumerate(paths):
        for f in [root / p] if Path(p).suffix else [root / p / f"{k}.png" for k in range(10)]:
            f.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (10 * i, 0, 0)).save(f, "PNG")


def test_folder_follows_links_but_not_in_circles(tmp_path):
    copies(tmp_path, "elsewhere", "set/dog")
    (tmp_path / "set/cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/again").symlink_to(tmp_path / "set")  # set/cat/again is set
    data = load_dataset(f"folder:{tmp_path}/set")
    assert data.classes == ("cat", "dog") and np.bincount(data.y).tolist() == [9, 9]


def test_folder_takes_every_kind_of_picture_and_tells(tmp_path, capsys):
    kinds = (
        "png",
        "jpg",
        "jpeg",
        "jfif",
        "tif",
        "tiff",
        "gif",
        "webp",
        "bmp",
        "ppm",
        "pgm",
        "tga",
        "jp2",
        "ico",
        "PNG",
    )
    for k in kinds:
        Image.new("RGB", (4, 4)).save(tmp_path / f"{k}0.{k}", {"tga": "TGA", "pgm": "PPM"}.get(k))
    for name in ("labels.csv", "set.h5", "README", ".hidden.png"):
        (tmp_path / name).touch()
    assert len(load_dataset(f"folder:{tmp_path}")) + len(load_dataset(f"folder:{tmp_path}", "test")) == len(kinds)
    assert (
        f"folder:{tmp_path}, train: 14 images (no classes); left out: 1 .csv, 1 .h5, 1 hidden, 1 without a suffix"
        in capsys.readouterr().out
    )


def test_folder_of_splits(tmp_path, capsys):
    copies(tmp_path, "train/a", "train/b", "val/a", "test/a", "test/b", "extra/a")
    (tmp_path / "list.txt").touch()
    assert [len(load_dataset(f"folder:{tmp_path}", s)) for s in ("train", "test")] == [20, 20]
    assert "train: 20 images (a 10, b 10); left out: 1 .txt, extra/, test/, val/" in capsys.readouterr().out
    copies(tmp_path / "alone", "Train/a", "Train/b")  # no held-out folder: every tenth
    assert [(len(d), d.classes) for d in (load_dataset(f"folder:{tmp_path}/alone", s) for s in ("train", "test"))] == [
        (18, ("a", "b")),
        (2, ("a", "b")),
    ]


def test_folder_is_resolved(tmp_path, monkeypatch):
    copies(tmp_path, "pictures")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert {
        resolve_dataset(f"folder:{p}")
        for p in ("pictures", "pictures/", "./x/../pictures", "~/pictures", tmp_path / "pictures")
    } == {f"folder:{tmp_path}/pictures"}
    assert [resolve_dataset(n) for n in ("digits", "celeba64:Smiling")] == ["digits", "celeba64:Smiling"]
    train = load_dataset("folder:pictures")
    monkeypatch.chdir("/")
    assert len(load_dataset(train.name, "test")) == 1


def test_folder_whose_files_change(tmp_path):
    copies(tmp_path, "cat", "dog")
    name = f"folder:{tmp_path}"
    saved = load_dataset(name).fingerprint()
    assert fingerprint_difference(saved, load_dataset(name).fingerprint()) == ""
    Image.new("RGB", (4, 4), (0, 9, 0)).save(tmp_path / "cat/3.png")
    assert "as many images in the same classes, but other pixels" in fingerprint_difference(
        saved, load_dataset(name).fingerprint()
    )
    copies(tmp_path, "eel")
    assert (
        fingerprint_difference(saved, load_dataset(name).fingerprint()) == "images: 18 before, 27 now; new classes: eel"
    )
    (tmp_path / "cat").rename(tmp_path / "ape")
    assert "classes that are gone: cat; new classes: ape, eel" in fingerprint_difference(
        saved, load_dataset(name).fingerprint()
    )


def test_transparent_key_of_16_bit_grey(tmp_path):
    Image.fromarray(np.array([[515, 40000]], np.uint16)).save(tmp_path / "a.png", transparency=515)
    with Image.open(tmp_path / "a.png") as im:
        assert np.asarray(as_rgb(im))[0, :, 0].tolist() == [255, 40000 >> 8]


def test_grey_tiff_of_12_bits_and_where_white_is_zero(tmp_path):
    import struct

    for bits, inverted, raw, expected in (
        (12, False, b"\x80\x0f\xff", [0x80, 0xFF]),
        (16, True, struct.pack("<HH", 0x8000, 0xFFFF), [0x7F, 0]),
    ):
        tags = [
            (256, 3, 2),
            (257, 3, 1),
            (258, 3, bits),
            (259, 3, 1),
            (262, 3, 0 if inverted else 1),
            (273, 4, 8 + 2 + 8 * 12 + 4),
            (278, 3, 1),
            (279, 4, len(raw)),
        ]
        directory = (
            struct.pack("<H", len(tags))
            + b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
            + bytes(4)
        )
        (tmp_path / "a.tiff").write_bytes(b"II*\x00" + struct.pack("<I", 8) + directory + raw)
        with Image.open(tmp_path / "a.tiff") as im:
            assert np.asarray(as_rgb(im))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("name", ["cifar10", "imagenet32", "celeba64"])
def test_two_processes_unpack_and_convert_the_same_set(tmp_path, name):
    MAKERS[name](tmp_path)
    if name == "cifar10":
        with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as t:
            t.add(tmp_path / "cifar-10-batches-py", "cifar-10-batches-py")
        shutil.rmtree(tmp_path / "cifar-10-batches-py")
    if name == "celeba64":
        with zipfile.ZipFile(tmp_path / "celeba/img_align_celeba.zip", "w") as z:
            for f in sorted((tmp_path / "celeba/img_align_celeba").iterdir()):
                z.write(f, f"img_align_celeba/{f.name}")
        shutil.rmtree(tmp_path / "celeba/img_align_celeba")
    assert two_at_once(name, tmp_path) == [load_dataset(name, "train", tmp_path).checksum()] * 2
    assert [f.name for f in tmp_path.rglob(".*")] == []  # nothing temporary is left


# --- downloads by two processes at once


class SlowServer(http.server.SimpleHTTPRequestHandler):
    """Sends files in two pieces with a pause, so that downloads overlap; notes which were asked for."""

    def do_GET(self):
        self.server.asked.append(self.path)
        data = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        try:
            self.wfile.write(data[: len(data) // 2])
            time.sleep(0.2)
            self.wfile.write(data[len(data) // 2 :])
        except ConnectionError:
            pass  # torchvision looks first whether it is sent elsewhere, and hangs up

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder, the address at which a server offers it, and the files that it was asked for."""
    folder = tmp_path / "served"
    folder.mkdir()

    def handler(*a, **kw):
        return SlowServer(*a, directory=str(folder), **kw)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield folder, f"http://127.0.0.1:{server.server_port}", server.asked
    server.shutdown()


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def offer(name, folder, address):
    """Put a small set on the server as torchvision expects it; returns what torchvision must know of it."""
    MAKERS[name](folder)
    if name == "mnist":
        packed = []
        for f in sorted((folder / "MNIST/raw").iterdir()):
            gz = folder / f"{f.name}.gz"
            gz.write_bytes(gzip.compress(f.read_bytes()))
            packed.append((gz.name, md5(gz)))
        return dict(mirrors=[f"{address}/"], resources=packed)
    if name == "cifar10":
        archive = folder / "cifar-10-python.tar.gz"
        with tarfile.open(archive, "w:gz") as t:
            t.add(folder / "cifar-10-batches-py", "cifar-10-batches-py")
        return dict(url=f"{address}/{archive.name}", tgz_md5=md5(archive))
    files = {part: f"{part}_32x32.mat" for part in ("train", "test")}
    return dict(split_list={part: [f"{address}/{f}", f, md5(folder / f)] for part, f in files.items()})


CLASSES = {"mnist": tvd.MNIST, "cifar10": tvd.CIFAR10, "svhn": tvd.SVHN}


@pytest.mark.parametrize("name", CLASSES)
def test_two_processes_download_the_same_set(tmp_path, served, monkeypatch, name):
    folder, address, asked = served
    there = offer(name, folder, address)
    for attribute, value in there.items():
        monkeypatch.setattr(CLASSES[name], attribute, value)
    alone = load_dataset(name, "train", tmp_path / "alone", download=True)
    assert alone.checksum() == load_dataset(name, "train", folder).checksum()
    needed = sorted(asked)
    asked.clear()
    assert two_at_once(name, tmp_path / "data", there) == [alone.checksum()] * 2
    assert sorted(asked) == needed  # the second process waited, and fetched nothing
    assert [f.name for f in (tmp_path / "data").rglob(".*")] == [f".{name}.lock"]  # nothing temporary is left


NPM = """#!/bin/sh
[ "$1 $2 $3" = "pack --silent emoji-datasource-google@16" ] || exit 1
echo called >> "$CALLS"
head -c 1000 "$PACKAGE" > emoji-datasource-google-16.0.0.tgz
sleep 0.3
cat "$PACKAGE" > emoji-datasource-google-16.0.0.tgz
"""


def test_two_processes_download_the_emoji(tmp_path):
    make_emoji(tmp_path / "served")
    (tmp_path / "bin").mkdir()
    npm = tmp_path / "bin/npm"
    npm.write_text(NPM)
    npm.chmod(0o755)
    said = two_at_once(
        "emoji",
        tmp_path / "data",
        {},
        PATH=f"{npm.parent}:{os.environ['PATH']}",
        CALLS=str(tmp_path / "calls"),
        PACKAGE=str(tmp_path / "served/emoji-datasource-google-16.0.0.tgz"),
    )
    assert said == [load_dataset("emoji", "train", tmp_path / "served").checksum()] * 2
    assert (tmp_path / "calls").read_text() == "called\n"
    assert sorted(f.name for f in (tmp_path / "data").iterdir()) == [
        ".emoji.lock",
        "emoji-datasource-google-16.0.0.tgz",
        "emoji32.npz",
    ]


def test_a_download_that_was_cut_is_begun_again(tmp_path, served):
    folder, address, _ = served
    there = offer("cifar10", folder, address)
    root = tmp_path / "data"
    (root / ".cifar10.download-dead").mkdir(parents=True)  # of a process that was killed long ago
    os.utime(root / ".cifar10.download-dead", (0, 0))
    whole = (folder / "cifar-10-python.tar.gz").read_bytes()
    (root / "cifar-10-python.tar.gz").write_bytes(whole[:1000])
    assert len(two_at_once("cifar10", root, there)) == 2 and (root / "cifar-10-python.tar.gz").read_bytes() == whole
    assert [f.name for f in root.rglob(".*")] == [".cifar10.lock"]


def test_twelve_pictures_are_enough_to_train_on(tmp_path, here, capsys):
    copies(tmp_path, *(f"pictures/{k}.png" for k in range(12)))
    tiny = {**TINY, "batch_size": 4, "n_samples": 8, "n_progress": 8}
    run = here("train", dataset=f"folder:{tmp_path}/pictures", run="mine", **tiny) / "mine"
    said = capsys.readouterr().out
    assert "a single test image: too few for a Fréchet distance" in said and "no FD-classifier" in said
    assert json.loads((run / "metrics.json").read_text())["real_test"] == {} and (run / "model").is_dir()
