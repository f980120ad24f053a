"""MNIST's files, made here and, where they are at hand, the real ones."""

import gzip

import numpy as np
import pytest

from tandem_defense.datasets.mnist import MNIST


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def test_mnist_files(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 28, 28), np.uint8)
    for name in ("train", "t10k"):
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        labels = np.arange(5, dtype=np.uint8)
        (tmp_path / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    found = MNIST(folder=str(tmp_path), test=3).load()
    assert np.array_equal(found["train"].images[..., 0], images)
    assert found["test"].labels.tolist() == [0, 1, 2]
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(5, dtype=np.uint8))[:-1])
    with pytest.raises(ValueError, match="truncated"):
        MNIST(folder=str(tmp_path)).load()
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="train-labels"):
        MNIST(folder=str(tmp_path)).load()


def test_real_mnist(root):
    folder = root.parent / "shared/data/mnist"
    if not folder.is_dir():
        pytest.skip("the real MNIST files are not beside this checkout")
    found = MNIST(folder=str(folder)).load()
    assert len(found["train"]) == 60000 and len(found["test"]) == 1000
    assert found["test"].labels[:5].tolist() == [7, 2, 1, 0, 4]
