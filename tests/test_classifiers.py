"""Datasets load as documented; classifiers give logits, maps and reproducible training."""

import gzip

import numpy as np
import pytest
import torch
from PIL import Image

from tandem_defense import configuration
from tandem_defense.classifiers.small import SmallCNN
from tandem_defense.classifiers.torchvision import LAST_MAPS, Torchvision
from tandem_defense.datasets.digits import Digits
from tandem_defense.datasets.mnist import MNIST
from tandem_defense.datasets.nips2017 import NIPS2017
from tandem_defense.datasets.photos import PHOTOGRAPHS, Photos
from tandem_defense.stages import convert, models
from tandem_defense.stages.models import to_tensor
from tandem_defense.stages.show import activation_maps


@pytest.fixture(scope="module")
def photos():
    return Photos(size=32, test=14, tune=7, train=140).load()


def test_photos_are_reproducible_and_balanced(photos):
    again = Photos(size=32, test=14, tune=7, train=140).load()
    for name, n in {"test": 14, "tune": 7, "train": 140}.items():
        assert photos[name].images.shape == (n, 32, 32, 3)
        assert np.array_equal(photos[name].images, again[name].images)
        assert set(np.bincount(photos[name].labels)) == {n // len(PHOTOGRAPHS)}
    other = Photos(size=32, test=14, tune=7, train=140, regions=1).load()
    assert not np.array_equal(photos["test"].images, other["test"].images)


def test_photos_regions_of_splits_are_disjoint(monkeypatch):
    """On a picture whose pixels are all different, no test or tune pixel is seen elsewhere."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (160, 200, 3), np.uint8)
    monkeypatch.setattr("tandem_defense.datasets.photos.PHOTOGRAPHS", {"noise": lambda: picture})
    found = Photos(size=32, scale=5, test=2, tune=2, train=30).load()

    def pixels(split):
        return {tuple(p) for p in found[split].images.reshape(-1, 3).tolist()}

    shared = len(pixels("test") & pixels("train")) + len(pixels("tune") & pixels("train"))
    assert shared < 20  # chance meetings of 24-bit colors among some thousand pixels
    assert len(pixels("train") & {tuple(p) for p in picture.reshape(-1, 3).tolist()}) > 1000


def test_photos_without_room_say_so():
    with pytest.raises(ValueError, match="has room for .* test patches of 32 pixels"):
        Photos(size=32, test=700, tune=7, train=7).load()


def test_digits():
    found = Digits(test=400).load()
    assert found["test"].images.shape == (400, 28, 28, 1) and len(found["train"]) == 1397
    assert not set(found["test"].ids) & set(found["train"].ids)
    assert found["train"].images.max() == 255


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


def test_nips2017_folder(tmp_path):
    (tmp_path / "images").mkdir()
    lines = ["ImageId,TrueLabel,Author,OriginalLandingURL,License"]
    license = "https://creativecommons.org/licenses/by/2.0/"
    for i in range(3):
        image = np.full((299, 299, 3), 40 * i, np.uint8)
        Image.fromarray(image).save(tmp_path / f"images/{i}.png")
        source = f"https://www.flickr.com/photos/p/{i}"
        lines.append(f"{i},{i + 1},Photographer {i},{source},{license}")
    (tmp_path / "images.csv").write_text("\n".join(lines))
    found = NIPS2017(folder=str(tmp_path), test=2, train=1).load()
    assert found["test"].labels.tolist() == [0, 1] and found["train"].ids == ("2",)
    credit = "Photographer 1, flickr.com/photos/p/1, creativecommons.org/licenses/by/2.0"
    assert found["test"].credits[1] == credit
    with pytest.raises(ValueError, match="lists 3 images.*ask for 4"):
        NIPS2017(folder=str(tmp_path), test=4).load()


def test_real_nips2017(root):
    folder = root.parent / "shared/data/nips2017dev"
    if not folder.is_dir():
        pytest.skip("the real DEV images are not beside this checkout")
    found = NIPS2017(folder=str(folder), test=4, train=2).load()
    assert found["test"].images.shape == (4, 299, 299, 3)
    assert found["test"].labels[0] == 305


def test_training_is_reproducible_and_learns(photos):
    x, y = to_tensor(photos["train"].images), torch.from_numpy(photos["train"].labels)
    nets = [SmallCNN(classes=7, width=8) for _ in range(3)]
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    for net, seed in zip(nets, (0, 0, 1)):
        net.fit(x, y, seed=seed, epochs=15, batch_size=16, noise=0.05)
    assert torch.equal(torch.random.get_rng_state(), state)
    logits = [net(x[:4]) for net in nets]
    assert torch.equal(logits[0], logits[1]) and not torch.allclose(logits[0], logits[2])
    assert (nets[0].predict(x) == y).float().mean() > 0.7  # chance is 0.14
    assert not nets[0].training


@pytest.mark.parametrize(
    ("family", "architecture", "size"),
    [
        ("ResNet", "resnet18", 64),
        ("Inception3", "inception_v3", 96),
        ("DenseNet", "densenet121", 64),
        ("ShuffleNetV2", "shufflenet_v2_x0_5", 64),
    ],
)
def test_maps_and_head_make_the_logits(family, architecture, size):
    net = Torchvision(architecture=architecture, classes=5).eval()
    assert type(net.net).__name__ == family and family in LAST_MAPS
    x = torch.rand(2, 3, size, size)
    with torch.no_grad():
        assert torch.allclose(net.head(net.maps(x)), net(x), atol=1e-5)


def test_torchvision_inputs():
    with pytest.raises(ValueError, match="'resnet19' is not torchvision's"):
        Torchvision(architecture="resnet19")
    net = Torchvision(architecture="resnet18", classes=3, input_size=32).eval()
    assert net(torch.rand(2, 3, 64, 64)).shape == (2, 3)
    other = Torchvision(architecture="squeezenet1_1", classes=3).eval()
    assert other(torch.rand(1, 3, 64, 64)).shape == (1, 3)
    with pytest.raises(ValueError, match="no feature maps known for squeezenet1_1"):
        other.maps(torch.rand(1, 3, 64, 64))


def test_real_resnet50_classifies_real_photographs(root):
    """The whole chain of normalization, size and labels: real images, real weights."""
    shared = root.parent / "shared/data"
    weights = shared / "weights/resnet50_pqf_fp16.safetensors"
    if not weights.is_file():
        pytest.skip("no real ImageNet weights beside this checkout")
    from safetensors.torch import load_file

    images = NIPS2017(folder=str(shared / "nips2017dev"), test=16).load()["test"]
    net = Torchvision(architecture="resnet50")
    net.load_checkpoint({k: v.float() for k, v in load_file(weights).items()})
    right = net.eval().predict(to_tensor(images.images)).numpy() == images.labels
    assert right.mean() > 0.6


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_weights_of_ones_own(tmp_path, ending):
    """A file of one's own becomes the classifier's weights, in whatever precision it is."""
    from safetensors.torch import save_file

    entry = {"kind": "torchvision", "architecture": "shufflenet_v2_x0_5", "classes": 5}
    entry["weights"] = str(tmp_path / f"mine{ending}")
    net = models.build("classifiers", entry)
    half = {k: v.half() if v.is_floating_point() else v for k, v in net.net.state_dict().items()}
    save = save_file if ending == ".safetensors" else torch.save
    save(half, entry["weights"])
    manifest, output = tmp_path / "downloads.toml", str(tmp_path / "out.safetensors")
    manifest.touch()
    (name,) = configuration.checkpoint("classifiers", entry)
    convert.checkpoint("classifiers", entry, {name: name}, str(manifest), output)
    loaded = models.load("classifiers", entry, output, torch.device("cpu"))
    assert torch.equal(loaded.net.fc.weight, net.net.fc.weight.half().float())
    other = entry | {"classes": 6}
    with pytest.raises(ValueError, match="mine.* does not hold shufflenet_v2_x0_5 with 6 classes"):
        convert.checkpoint("classifiers", other, {name: name}, str(manifest), output)


def test_activation_maps_follow_the_formula():
    """Σ_f w_kf · maps_f for the top class k, positive part, scaled to [0, 1]."""
    net = SmallCNN(classes=4, width=8).eval()
    x = torch.rand(3, 3, 64, 64)
    heat = activation_maps(net, x)
    maps, top = net.maps(x), net(x).argmax(1)
    plain = torch.stack([(net.fc.weight[k][:, None, None] * m).sum(0) for k, m in zip(top, maps)])
    plain = torch.nn.functional.interpolate(plain.clamp(min=0)[:, None], (64, 64), mode="bilinear")
    plain = plain[:, 0] / plain[:, 0].amax((1, 2), keepdim=True)
    assert heat.shape == (3, 64, 64) and (heat - plain).abs().max() < 1e-5
