"""A network of the user's own: found, given its weights, and refused in words that help."""

import re
from argparse import Namespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tandem_defense.classifiers.checkpoints import load_weights, read_state_dict
from tandem_defense.classifiers.own import Own
from tandem_defense.files.base import FileError
from tandem_defense.pipeline import convert, entries, schema

TARGET = "tandem_defense.classifiers.own:Own"
FILE = """
import torch
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


class WithMaps(Net):
    def maps(self, images):
        return self[0](images)

    def head(self, maps):
        return self[3](maps.mean((2, 3)))


def gray():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 2))


def tuples():
    net = Net()
    net.forward = lambda images: (images, images)
    return net


def several(classes):
    return Net()


def none():
    return "no module"
"""


@pytest.fixture
def own(tmp_path):
    """A classifier of the file's class or function."""
    (tmp_path / "net.py").write_text(FILE)

    def make(name, **settings):
        settings = {"weights": "net.pth", "normalization": "none"} | settings
        return Own(module=f"{tmp_path}/net.py:{name}", **settings).eval()

    return make


def test_the_module_gets_normalized_images(own):
    x = torch.rand(2, 3, 9, 9)
    net = own("Net")
    assert net(x).shape == (2, 5) and torch.equal(net(x), net.net(x))
    half, imagenet = (own("Net", normalization=name) for name in ("half", "imagenet"))
    assert torch.allclose(half(x), half.net(2 * x - 1), atol=1e-6)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    assert torch.allclose(imagenet(x), imagenet.net((x - mean) / std), atol=1e-6)
    assert imagenet(x[:, :1]).shape == (2, 5)  # three channels of a gray one


def test_the_module_gets_resized_images(own):
    net, x = own("gray", input_size=6), torch.rand(2, 1, 12, 12)
    expected = nn.functional.interpolate(x, (6, 6), mode="bilinear", antialias=True)
    assert torch.equal(net(x), net.net(expected))
    assert torch.equal(net(x[..., :6, :6]), net.net(x[..., :6, :6]))


def test_a_module_of_a_package():
    settings = {"weights": "w.pth", "normalization": "none"}
    assert isinstance(Own(module="torch.nn:Identity", **settings).net, nn.Identity)
    assert schema.schema(TARGET)["required"] == ["module", "weights", "normalization"]
    assert schema.fit(TARGET) is None  # the pipeline does not train it
    with pytest.raises(ValueError, match="normalization: found 'mean', allowed is one of imagenet"):
        Own(module="torch.nn:Identity", weights="w.pth", normalization="mean")


def test_maps_are_the_module_s_own(own):
    net, x = own("WithMaps", normalization="half"), torch.rand(2, 3, 9, 9)
    assert net.maps(x).shape == (2, 4, 7, 7)
    assert torch.allclose(net.head(net.maps(x)), net(x), atol=1e-6)
    with pytest.raises(ValueError, match=r"net\.py:Net has no methods maps and head, which class"):
        own("Net").maps(x)


@pytest.mark.parametrize(
    ("module", "why"),
    [
        ("nowhere.net:Net", "No module named 'nowhere'"),
        ("net.py:Net", "No such file"),
        ("torch.nn:Nothing", "has no attribute 'Nothing'"),
        ("torch.nn", "not enough values"),
    ],
)
def test_what_is_not_there_is_explained(tmp_path, monkeypatch, module, why):
    monkeypatch.chdir(tmp_path)
    expected = f"module: found {module!r}, expected package.module:Class or file.py:Class: "
    with pytest.raises(ValueError, match=re.escape(expected) + f".*{why}"):
        Own(module=module, weights="w.pth", normalization="none")


def test_what_is_no_classifier_is_explained(own):
    with pytest.raises(ValueError, match="several.* without arguments .*'classes'.*add a function"):
        own("several")
    with pytest.raises(ValueError, match="none', which makes a str, expected a torch.nn.Module"):
        own("none")
    with pytest.raises(ValueError, match="tuples returns tuple, expected logits"):
        own("tuples")(torch.rand(1, 3, 9, 9))
    with pytest.raises(ValueError, match=r"Identity returns \(1, 3, 9, 9\), expected logits"):
        Own(module="torch.nn:Identity", weights="w.pth", normalization="none")(
            torch.rand(1, 3, 9, 9)
        )


def test_its_checkpoint_becomes_weights(own, tmp_path):
    trained, path = own("Net"), str(tmp_path / "mine.pth")
    torch.save({"state_dict": trained.net.half().state_dict(), "epoch": 3}, path)
    entry = {"class": TARGET, "settings": trained.settings() | {"weights": path}}
    (tmp_path / "downloads.toml").touch()
    output = str(tmp_path / "out.safetensors")
    convert.checkpoint(entry, {path: path}, str(tmp_path / "downloads.toml"), output)
    loaded = entries.load(entry, output, torch.device("cpu"))
    assert torch.equal(loaded.net[3].weight, trained.net[3].weight.float())
    with pytest.raises(FileError, match=r"(?s)mine\.pth does not hold .*:gray \(.*settings that"):
        own("gray").read_checkpoint(path)


# --- checkpoints ---


STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.zeros(2)}


def same(found):
    return list(found) == list(STATE) and all(torch.equal(found[k], STATE[k]) for k in STATE)


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "optimizer": {"lr": 1.0}, "epoch": 3},
        {"model": STATE, "args": {"lr": 1.0}},
        {"state_dict": {f"module.{name}": value for name, value in STATE.items()}},
        {f"_orig_mod.module.{name}": value for name, value in STATE.items()},
        {"model_state_dict": STATE, "optimizer_state_dict": {"state": {}}},
        {"model_state": {f"module.{name}": value for name, value in STATE.items()}, "epoch": 3},
        {"net": STATE, "acc": 91.5},
        {"model": {"state_dict": STATE}},
        {"epoch": 3, "state_dict": STATE, "state_dict_ema": {"a.weight": torch.ones(1)}},
        {"epoch": 3, "state_dict_ema": STATE},
        {"model": STATE, "args": Namespace(lr=0.1, data="imagenet")},
        {"n_averaged": torch.tensor(7)} | {f"module.{k}": value for k, value in STATE.items()},
    ],
)
def test_wrappers_and_prefixes_are_removed(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    assert same(read_state_dict(tmp_path / "w.pth"))
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(read_state_dict(str(tmp_path / "old.pth")))


def test_safetensors(tmp_path):
    save_file(
        {f"module.{name}": value for name, value in STATE.items()}, tmp_path / "w.safetensors"
    )
    found = read_state_dict(tmp_path / "w.safetensors")
    assert set(found) == set(STATE) and torch.equal(found["a.weight"], STATE["a.weight"])


def test_a_wrapper_in_itself_ends(tmp_path):
    content = {"epoch": 3}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(FileError, match="holds epoch, model, expected tensors by name"):
        read_state_dict(tmp_path / "w.pth")


def test_real_wrappers(own, tmp_path):
    """DataParallel, PyTorch's average of weights and a module as part of another one."""
    net = own("Net").net
    average = torch.optim.swa_utils.AveragedModel(net)
    average.update_parameters(net)
    for wrapped in (nn.DataParallel(net), average, nn.ModuleDict({"model": net})):
        torch.save({"state_dict": wrapped.state_dict()}, tmp_path / "net.pth")
        loaded = own("Net")
        loaded.read_checkpoint(str(tmp_path / "net.pth"))
        assert torch.equal(loaded.net[3].weight, net[3].weight)
    torch.save({"model.a": torch.zeros(1), "ema.a": torch.ones(1)}, tmp_path / "net.pth")
    with pytest.raises(FileError, match="does not hold"):
        own("Net").read_checkpoint(str(tmp_path / "net.pth"))


def test_a_prefix_that_not_all_have_stays(tmp_path):
    state = {"module.weight": torch.zeros(1), "weight": torch.zeros(1)}
    torch.save(state, tmp_path / "w.pth")
    assert set(read_state_dict(tmp_path / "w.pth")) == set(state)


class Pickled:
    """What a pickle could do."""

    def __reduce__(self):
        return print, ("this must not be printed",)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (nn.Linear(2, 2), r"holds torch\.nn\.modules\.linear\.Linear, which is code to run"),
        ({"model": STATE, "args": Pickled()}, r"holds \S*print, which is code to run"),
        (torch.zeros(3), "holds a Tensor, expected tensors by name"),
        ([STATE], "holds a list, expected tensors by name"),
        ({}, "holds nothing, expected tensors by name"),
        ({"student": STATE, "accuracy": 0.9}, "holds student, accuracy, expected tensors by name"),
        ({0: torch.zeros(3)}, "holds 0, expected tensors by name"),
    ],
)
def test_anything_but_tensors_is_refused(tmp_path, capsys, content, found):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(FileError, match=rf"w\.pth {found}.*Save the weights alone: torch\.save\("):
        read_state_dict(tmp_path / "w.pth")
    assert "must not" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_compiled_modules_are_refused(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "w.pth")
    with pytest.raises(FileError, match="holds TorchScript, which is code to run"):
        read_state_dict(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_damaged_checkpoints_are_named(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(FileError, match=f"{name} is missing. `weights` is the checkpoint's path"):
        read_state_dict(path)
    save_file(STATE, path) if name == "w.safetensors" else torch.save(STATE, path)
    for content in (b"", b"text", path.read_bytes()[:100], path.read_bytes()[:-20]):
        path.write_bytes(content)
        with pytest.raises(FileError, match=f"{name} is not a checkpoint, or damaged") as caught:
            read_state_dict(path)
        assert "weights_only" not in str(caught.value)


def test_a_part_that_is_called_module_keeps_its_name(tmp_path):
    """DataParallel's prefix is none of its names."""

    class Wrapping(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(2, 2)

    net, other = Wrapping(), Wrapping()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    load_weights(other, tmp_path / "net.pth", "it")
    assert torch.equal(other.module.weight, net.module.weight)
    parallel = {f"module.{name}": value for name, value in net.state_dict().items()}
    torch.save(parallel, tmp_path / "net.pth")
    load_weights(other, tmp_path / "net.pth", "it")
