"""Small files in the true format of each dataset, made of noise."""

import io
import json
import pickle
import struct
import tarfile

import numpy as np
from PIL import Image
from scipy.io import savemat

RNG = np.random.default_rng(0)


def pixels(n, *shape):
    return RNG.integers(0, 256, (n, *shape), dtype=np.uint8)


def idx(path, array):
    """An IDX file, the format of MNIST and Fashion-MNIST."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    )


def make_mnist(root, folder="MNIST", n=40):
    for part in ("train", "t10k"):
        idx(root / folder / f"raw/{part}-images-idx3-ubyte", pixels(n, 28, 28))
        idx(root / folder / f"raw/{part}-labels-idx1-ubyte", (np.arange(n) % 10).astype(np.uint8))


def make_cifar10(root, n=20):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        batch = dict(
            batch_label=name,
            data=pixels(n, 3072),
            labels=[(i + k) % 10 for k in range(n)],
            filenames=[f"{k}.png" for k in range(n)],
        )
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "batches.meta").write_bytes(
        pickle.dumps(dict(label_names=[f"class {i}" for i in range(10)], num_vis=3072), protocol=2)
    )


def make_cifar100(root, n=40):
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for name in ("train", "test"):
        (folder / name).write_bytes(
            pickle.dumps(
                dict(data=pixels(n, 3072), fine_labels=[k % 100 for k in range(n)], coarse_labels=[0] * n), protocol=2
            )
        )
    (folder / "meta").write_bytes(
        pickle.dumps(
            dict(fine_label_names=[f"fine {i}" for i in range(100)], coarse_label_names=["coarse"]), protocol=2
        )
    )


def make_svhn(root, n=30):
    root.mkdir(parents=True, exist_ok=True)
    for name in ("train", "test"):
        savemat(
            root / f"{name}_32x32.mat",
            dict(X=pixels(n, 32, 32, 3).transpose(1, 2, 3, 0), y=(np.arange(n) % 10 + 1)[:, None].astype(np.uint8)),
        )


def make_imagenet32(root, n=20, npz=False):
    folder = root / "imagenet32"
    folder.mkdir(parents=True)
    for name in [*(f"train_data_batch_{i}" for i in range(1, 11)), "val_data"]:
        batch = dict(data=pixels(n, 3072), labels=[int(v) for v in RNG.integers(1, 1001, n)])
        if npz:
            np.savez(folder / f"{name}.npz", data=batch["data"], labels=np.array(batch["labels"]))
        else:
            (folder / name).write_bytes(pickle.dumps({**batch, "mean": np.zeros(3072)}, protocol=2))


def make_celeba(root, n=60):
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i:06}.jpg" for i in range(1, n + 1)]
    for f in names:
        Image.fromarray(pixels(218, 178, 3)).save(folder / "img_align_celeba" / f)
    attributes = ["Male", "Smiling", "Young", *(f"Attribute_{i}" for i in range(37))]
    rows = [f"{f}  " + " ".join(str(v) for v in RNG.choice([-1, 1], 40)) for f in names]
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(n), " ".join(attributes), *rows]) + "\n")
    (folder / "list_eval_partition.txt").write_text(
        "".join(f"{f} {0 if i < n * 2 // 3 else 2}\n" for i, f in enumerate(names))
    )


def make_emoji(root):
    root.mkdir(parents=True, exist_ok=True)
    kinds = ["Smileys & Emotion", "Component"] * 10
    entries = [dict(category=c, sheet_x=i, sheet_y=0, has_img_google=True) for i, c in enumerate(kinds)]
    sheet = io.BytesIO()
    Image.fromarray(pixels(34, 34 * len(kinds), 4), "RGBA").save(sheet, "PNG")
    with tarfile.open(root / "emoji-datasource-google-16.0.0.tgz", "w:gz") as t:
        for name, data in (
            ("package/emoji.json", json.dumps(entries).encode()),
            ("package/img/google/sheets/32.png", sheet.getvalue()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))


MAKERS = dict(
    mnist=make_mnist,
    fashion_mnist=lambda root: make_mnist(root, "FashionMNIST"),
    cifar10=make_cifar10,
    cifar100=make_cifar100,
    svhn=make_svhn,
    imagenet32=make_imagenet32,
    celeba64=make_celeba,
)
