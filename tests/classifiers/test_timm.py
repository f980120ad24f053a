"""timm's architectures: their own normalization and size, maps where there are any, checkpoints."""

import importlib.util
import sys

import pytest
import torch
from torch import nn

from tandem_defense.files.base import FileError
from tandem_defense.pipeline import convert, entries, schema
from tandem_defense.pipeline.schema import source

TARGET = "tandem_defense.classifiers.timm:Timm"


@pytest.fixture
def timm():
    return pytest.importorskip("timm")


@pytest.fixture
def make(timm):
    from tandem_defense.classifiers.timm import Timm

    return lambda name="test_resnet", **settings: Timm(architecture=name, **settings).eval()


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    spec = importlib.util.spec_from_file_location("without_timm", source(TARGET.split(":")[0]))
    with pytest.raises(ImportError, match=r'pip install "tandem-defense\[timm\]"'):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_the_configuration_is_checked_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    found = schema.schema(TARGET)
    assert found["required"] == ["architecture"]
    assert list(found["properties"]) == ["architecture", "classes", "weights", "input_size"]
    assert "epochs" in schema.fit(TARGET)["properties"]
    assert schema.constant(TARGET, "CHECKPOINT") == ("{weights}",)


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "resnet18.tv_in1k"])
def test_images_are_prepared_as_timm_evaluates_them(timm, make, architecture):
    net = make(architecture, classes=5)
    data = timm.data.resolve_data_config({}, model=net.net)
    side = data["input_size"][-1]
    x = torch.rand(1, 3, side, side)
    mean, std = (torch.tensor(data[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        assert torch.allclose(net(x), net.net((x - mean) / std), atol=1e-5)
        smaller = torch.rand(2, 3, 40, 50)
        resized = nn.functional.interpolate(smaller, (side, side), mode="bilinear", antialias=True)
        assert torch.equal(net(smaller), net(resized)) and net(smaller).shape == (2, 5)
        assert torch.equal(net(smaller[:, :1]), net(smaller[:, :1].expand(-1, 3, -1, -1)))


def test_normalization_belongs_to_the_weights(make):
    means = [make(f"resnet18.{tag}").prepare.mean.flatten() for tag in ("tv_in1k", "gluon_in1k")]
    assert torch.allclose(means[0], torch.tensor([0.485, 0.456, 0.406]))
    vit = make("vit_tiny_patch16_224.augreg_in21k_ft_in1k", input_size=32)
    assert vit.prepare.mean.flatten().tolist() == [0.5] * 3


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit"])
def test_another_input_size(make, architecture):
    net = make(architecture, classes=3, input_size=64)
    seen = []
    net.net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    assert net(torch.rand(2, 3, 40, 40)).shape == (2, 3) and seen == [(2, 3, 64, 64)]


@pytest.mark.parametrize(
    "architecture",
    ["test_resnet", "test_efficientnet", "test_convnext", "mobilenetv3_small_050", "vgg11"],
)
def test_maps_and_head_make_the_logits(make, architecture):
    net, x = make(architecture, classes=5, input_size=64), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        maps = net.maps(x)
        assert maps.shape[:2] == (2, net.net.num_features)
        assert torch.allclose(net.head(maps), net(x), atol=1e-5)


@pytest.mark.parametrize("architecture", ["test_vit", "mambaout_femto"])
def test_tokens_and_channels_last_are_no_maps(make, architecture):
    net, x = make(architecture, classes=5), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert net(x).shape == (1, 5)
        with pytest.raises(ValueError, match=f"{architecture} has features of the shape .* need a"):
            net.maps(x)


def test_unknown_architectures(make):
    with pytest.raises(ValueError, match="'resnet19', which is not timm's; similar names are res"):
        make("resnet19")
    with pytest.raises(ValueError, match="'resnet18.mine_in1k', which is not timm's"):
        make("resnet18.mine_in1k")
    with pytest.raises(ValueError, match="'hf-hub:timm/resnet18', which is not timm's"):
        make("hf-hub:timm/resnet18")  # nothing is downloaded
    with pytest.raises(ValueError, match="Timm: classes: found 0, allowed is a whole number ≥ 1"):
        make(classes=0)


def test_a_checkpoint_becomes_weights(make, tmp_path):
    trained, path = make(classes=5), str(tmp_path / "mine.pth")
    torch.save({"state_dict": trained.net.state_dict(), "epoch": 3}, path)
    entry = {
        "class": TARGET,
        "settings": {"architecture": "test_resnet", "classes": 5, "weights": path},
    }
    (tmp_path / "downloads.toml").touch()
    output = str(tmp_path / "out.safetensors")
    convert.checkpoint(entry, {path: path}, str(tmp_path / "downloads.toml"), output)
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(entries.load(entry, output, torch.device("cpu"))(x), trained(x))
    with pytest.raises(FileError, match=r"(?s)mine\.pth does not hold test_resnet with 6 classes"):
        make(classes=6).read_checkpoint(path)


def test_the_pipeline_can_train_it(make):
    torch.manual_seed(0)
    labels = torch.arange(24) % 2
    x = (0.2 + 0.5 * labels[:, None, None, None] + 0.1 * torch.rand(24, 3, 32, 32)).clamp(0, 1)
    nets = [make("test_resnet", classes=2, input_size=32) for _ in range(2)]
    for net in nets:
        net.fit(x, labels, seed=0, epochs=8, batch_size=8)
    assert torch.equal(nets[0](x), nets[1](x)) and not nets[0].training
    assert (nets[0].predict(x) == labels).float().mean() > 0.8
