"""torchvision's networks: feature maps, input sizes, normalization, checkpoints."""

import pytest
import torch
import torchvision
from refusals import check_settings
from safetensors.torch import save_file
from trainings import random

from tandem_defense.classifiers.inputs import NORMALIZATION
from tandem_defense.classifiers.torchvision import LAST_MAPS, Torchvision
from tandem_defense.datasets.nips2017 import NIPS2017
from tandem_defense.pipeline import convert, entries
from tandem_defense.pipeline.entries import to_tensor

MEAN, STD = NORMALIZATION["imagenet"]


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


@pytest.mark.parametrize(
    ("normalization", "expected"),
    [
        ("none", [0.5, 0.5, 0.5]),
        ("half", [0.0, 0.0, 0.0]),
        ("imagenet", [0.015 / 0.229, 0.044 / 0.224, 0.094 / 0.225]),
    ],
)
def test_normalization(normalization, expected):
    net = Torchvision(architecture="resnet18", classes=3, normalization=normalization).eval()
    seen = []
    net.net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net(torch.full((1, 3, 32, 32), 0.5))
    assert torch.allclose(seen[0].mean((0, 2, 3)), torch.tensor(expected), atol=1e-6)
    assert not any("mean" in name and "." not in name for name in net.state_dict())


@pytest.mark.parametrize("architecture", ["inception_v3", "googlenet"])
def test_released_weights_get_the_input_that_they_were_trained_on(architecture):
    """torchvision's own network with its weights makes ±1 of ImageNet's normalization."""
    net = Torchvision(architecture=architecture, weights="IMAGENET1K_V1").eval()
    like = torchvision.models.get_model(
        architecture, weights=None, transform_input=True, init_weights=False
    ).eval()
    like.load_state_dict(net.net.state_dict())  # the auxiliary heads too
    x = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        normalized = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        assert torch.allclose(net(x), like(normalized), atol=1e-5)
        half = Torchvision(
            architecture=architecture, weights="IMAGENET1K_V1", normalization="half"
        ).eval()
        half.load_state_dict(net.state_dict())
        assert torch.allclose(net(x), half(x), atol=1e-4)


def test_networks_with_auxiliary_heads_are_trained_without_them():
    net = Torchvision(architecture="googlenet", classes=3)
    net.fit(random(4, 3, 64, 64), torch.arange(4) % 3, seed=0, epochs=1, batch_size=2)
    assert not any("aux" in name for name in net.state_dict()) and not net.net.transform_input


def test_dropout_draws_from_the_seed():
    def weights(seed):
        torch.rand(seed + 1)  # whatever was drawn before
        net = Torchvision(architecture="squeezenet1_1", classes=3)
        net.fit(random(6, 3, 64, 64), torch.arange(6) % 3, seed=seed, epochs=2, batch_size=3)
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    state = torch.get_rng_state()
    first = weights(0)
    assert torch.equal(first, weights(0)) and not torch.equal(first, weights(1))
    torch.set_rng_state(state)


def test_training_is_reproducible():
    images, labels = random(12, 3, 32, 32), torch.arange(12) % 3
    nets = [Torchvision(architecture="shufflenet_v2_x0_5", classes=3) for _ in range(2)]
    for net in nets:
        net.fit(images, labels, seed=0, epochs=1, batch_size=6)
    states = [net.state_dict() for net in nets]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize(
    "wrong", [{"classes": 0}, {"normalization": "all"}, {"input_size": -1}, {"weights": 3}]
)
def test_wrong_settings(wrong):
    check_settings(Torchvision, wrong, architecture="resnet18")


def test_real_resnet50_classifies_real_photographs(root):
    """The whole chain of normalization, size and labels: real images, real weights."""
    shared = root.parent / "shared/data"
    weights = shared / "weights/resnet50_pqf_fp16.safetensors"
    if not weights.is_file():
        pytest.skip("no real ImageNet weights beside this checkout")
    images = NIPS2017(folder=str(shared / "nips2017dev"), test=16).load()["test"]
    net = Torchvision(architecture="resnet50")
    net.read_checkpoint(str(weights))
    predicted = net.eval().predict(to_tensor(images.images)).numpy()
    assert (predicted == images.labels).mean() > 0.6


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_weights_of_ones_own(tmp_path, ending):
    """A file of one's own becomes the classifier's weights, in whatever precision it is."""
    path, output = str(tmp_path / f"mine{ending}"), str(tmp_path / "out.safetensors")
    settings = {"architecture": "shufflenet_v2_x0_5", "classes": 5, "weights": path}
    entry = {"class": "tandem_defense.classifiers.torchvision:Torchvision", "settings": settings}
    net = entries.build(entry)
    half = {k: v.half() if v.is_floating_point() else v for k, v in net.net.state_dict().items()}
    save = save_file if ending == ".safetensors" else torch.save
    save(half, path)
    manifest = tmp_path / "downloads.toml"
    manifest.touch()
    convert.checkpoint(entry, {path: path}, str(manifest), output)
    loaded = entries.load(entry, output, torch.device("cpu"))
    assert torch.equal(loaded.net.fc.weight, net.net.fc.weight.half().float())
    other = entry | {"settings": settings | {"classes": 6}}
    with pytest.raises(ValueError, match="mine.* does not hold shufflenet_v2_x0_5 with 6 classes"):
        convert.checkpoint(other, {path: path}, str(manifest), output)
