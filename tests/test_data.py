"""Every loader on files in its set's true format; conversion of an ImageNet-sized set in little memory."""
import json
import subprocess
import sys

import numpy as np
import pytest

from cdrl.data import BatchStream, load_dataset
from made_data import MAKERS, make_imagenet32

EXPECTED = {  # images in the training set, shape, classes
    "mnist": (40, (1, 32, 32), 10), "fashion_mnist": (40, (1, 32, 32), 10), "cifar10": (100, (3, 32, 32), 10), "cifar100": (40, (3, 32, 32), 100), "svhn": (30, (3, 32, 32), 10),
    "imagenet32": (200, (3, 32, 32), 1000), "celeba64": (40, (3, 64, 64), 2)}


@pytest.mark.parametrize("name", MAKERS)
def test_loader(tmp_path, name):
    MAKERS[name](tmp_path)
    data, test = (load_dataset(name, s, tmp_path) for s in ("train", "test"))
    assert (len(data), data.shape, data.n_class) == EXPECTED[name] and test.shape == data.shape and len(test) > 0
    x, y = data.batch(range(20))
    assert x.shape == (20, *data.shape) and -1 <= x.min() < -0.3 and 0.3 < x.max() <= 1 and 0 <= y.min() and y.max() < data.n_class
    assert load_dataset(name, "train", tmp_path).checksum() == data.checksum() != test.checksum()


def test_labels_of_imagenet_and_svhn_are_shifted(tmp_path):
    make_imagenet32(tmp_path, npz=True)
    with np.load(tmp_path / "imagenet32/val_data.npz") as z: labels, data = z["labels"], z["data"]
    test = load_dataset("imagenet32", "test", tmp_path)
    assert (test.y == labels - 1).all() and (test.x[:].reshape(-1, 3072) == data).all()
    MAKERS["svhn"](tmp_path)
    assert load_dataset("svhn", "train", tmp_path).y[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


def test_celeba_attributes(tmp_path):
    MAKERS["celeba64"](tmp_path)
    smiling, every = load_dataset("celeba64:Smiling", "train", tmp_path), load_dataset("celeba64:all", "train", tmp_path)
    assert smiling.classes == ("not Smiling", "Smiling") and every.y.shape == (40, 40) and every.n_class == 80
    assert ((every.y - 2 * np.arange(40))[:, 1] == smiling.y).all()
    import torch
    _, y = BatchStream(every, 40, torch.Generator().manual_seed(0)).next()
    assert y.shape == (40,) and len(set((y // 2).tolist())) > 10                           # one random attribute of each face


MEMORY = """
import json, re, sys, time
from pathlib import Path
import torch
from cdrl.data import BatchStream, load_dataset
root, start = Path(sys.argv[1]), time.time()
data = load_dataset("imagenet32", "train", root)
converted, start = time.time() - start, time.time()
stream = BatchStream(data, 250, torch.Generator().manual_seed(0), flip=True)
for _ in range(len(data) // 250): stream.next()
print(json.dumps(dict(n=len(data), conversion=len(data) / converted, loading=len(data) / (time.time() - start), peak_mb=int(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1]) / 1024)))
"""


def test_100_000_images_in_less_than_a_gigabyte(tmp_path):
    make_imagenet32(tmp_path, 10_000)
    r = json.loads(subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True).stdout)
    print(r)
    assert r["n"] == 100_000 and r["peak_mb"] < 1024
