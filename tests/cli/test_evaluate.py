"""The command `evaluate`: from a folder or the photographs to a table, and what it refuses."""

import re
import urllib.request

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tandem_defense import cli
from tandem_defense.classifiers.small import SmallCNN
from tandem_defense.classifiers.torchvision import Torchvision
from tandem_defense.datasets.folder import Folder
from tandem_defense.defenses.magnet import MagNet
from tandem_defense.files.weights import write_weights
from tandem_defense.pipeline.entries import to_tensor

COLORS = {"blue": 2, "green": 1, "red": 0}  # the channel that is bright, by class
FILE = '''
import torch
from torch import nn

from tandem_defense.attacks.base import Attack
from tandem_defense.classifiers.fitting import Trainable
from tandem_defense.defenses.base import Defense
from tandem_defense.settings import Count, OddCount


class Means(nn.Module):
    """Logits are the means of blue, green and red, as the folders' names are sorted."""

    def __init__(self, classes=3, three=(0, 1, 2)):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.classes, self.three = classes, list(three)

    def forward(self, images):
        logits = images.new_full((len(images), self.classes), -1.0)
        logits[:, self.three] = images.mean((2, 3)).flip(1) * self.scale
        return logits


def imagenet():
    return Means(1000, (0, 2, 999))


class Linear(Trainable):
    classes: Count

    def build(self):
        self.linear = nn.Linear(3, self.classes)

    def maps(self, images):
        return images

    def head(self, maps):
        return self.linear(maps.mean((2, 3)))


class Gray(Defense):
    kernel: OddCount = 3

    def forward(self, images, ids=None):
        return images.mean(1, keepdim=True).expand_as(images)


class Invert(Attack):
    semantics = "fixed"

    def run(self, model, images, labels, seeds):
        return 1 - images
'''


def pictures(folder, names=COLORS, each=4):
    """Class folders of pictures in one color each, with some noise."""
    rng = np.random.default_rng(0)
    for name, channel in zip(names, COLORS.values(), strict=True):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            pixels = rng.integers(0, 60, (24, 30, 3)).astype(np.uint8)
            pixels[..., channel] += 120
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A folder with pictures and mine.py, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "pictures")
    (tmp_path / "mine.py").write_text(FILE)
    return tmp_path


def run(*arguments, status=0):
    assert cli.main(["evaluate", "--size", "24", "--threads", "1", *arguments]) == status
    return pd.read_csv("table.csv") if status == 0 else None


OWN = ("--images", "pictures", "--classifier", "mine.py:Means", "-o", "table.csv")


def test_a_module_of_one_s_own_on_a_folder(study, capsys):
    attacks = ["--attacks", "mine.py:Invert", "bim:semantics=fixed,epsilon=4/255,step_size=1e-2"]
    table = run(*OWN, *attacks, "--defenses", "none", "jpeg:quality=50", "mine.py:Gray:kernel=5")
    assert table["defense"].tolist() == ["none", "jpeg:quality=50", "mine.py:Gray:kernel=5"] * 3
    assert table["attack"].unique().tolist() == ["clean", *attacks[1:]]
    assert (table["n"] == 12).all() and table["correct"].tolist() == [12, 12, 4] + [0] * 2 + [4] + [
        12, 12, 4
    ]  # fmt: skip
    assert table["linf"].iloc[-1] == pytest.approx(4 / 255, abs=1e-6)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("| attack ") and len({len(line) for line in lines[:11]}) == 1
    assert "| 12 of 12  | 100.0 %" in lines[2] and "oblivious" in lines[-1]
    assert "100%" in err
    assert not list(study.glob(".table*"))


def test_the_seed_decides_which_pictures_and_everything_else(study):
    arguments = [*OWN, "--attacks", "pgd:semantics=fixed", "--count", "5"]
    tables = [run(*arguments, "--seed", seed) for seed in "001"]
    assert tables[0].equals(tables[1]) and not tables[0].equals(tables[2])
    assert (tables[0]["n"] == 5).all()


def test_class_numbers_a_table_and_wordnet_ids(study):
    """Of a classifier with 1000 classes, three may be there."""
    arguments = ["--classifier", "mine.py:imagenet", "-o", "table.csv"]
    pictures(study / "numbers", ["0", "2", "999"])
    assert run("--images", "numbers", *arguments)["correct"].tolist() == [12]
    pictures(study / "wordnet", ["n01440764", "n01484850", "n15075141"])
    assert run("--images", "wordnet", *arguments)["correct"].tolist() == [12]
    numbers = zip(COLORS, (0, 2, 999), strict=True)
    rows = "".join(f"{name}/{i}.png,{n}\n" for name, n in numbers for i in range(2))
    (study / "pictures/labels.csv").write_text("file,label\n" + rows)
    table = run("--images", "pictures", "--labels", "labels.csv", *arguments)
    assert table["correct"].tolist() == [6] == table["n"].tolist()


@pytest.mark.parametrize("folder", ["pictures", "dogs"])
def test_names_that_are_no_class_numbers_are_refused(study, capsys, folder):
    if folder == "dogs":
        pictures(study / "dogs", ["n01440764", "n01443537", "n00000000"])
    run("--images", folder, "--classifier", "mine.py:imagenet", status=2)
    why = {"pictures": "has 3 classes, the classifier 1000: name", "dogs": "n00000000 is not one"}
    assert why[folder] in capsys.readouterr().err


def test_a_classifier_that_is_trained_first(study, capsys):
    """On the pictures that are not evaluated; the number of classes is the folder's."""
    trained = ("--classifier", "mine.py:Linear:training.epochs=60,training.learning_rate=0.1")
    table = run("--images", "pictures", *trained, "--count", "6", "-o", "table.csv")
    assert table["n"].tolist() == [6] and table["correct"].iloc[0] >= 5
    assert "training mine.py:Linear:" in (err := capsys.readouterr().err) and "on 6 images" in err
    run("--images", "pictures", *trained, status=2)
    assert "has no pictures to train on: lower --count" in capsys.readouterr().err


def test_the_photographs_with_the_small_classifier(study, capsys):
    quick = "small_cnn:training.epochs=2,training.learning_rate=0.01,width=8"
    table = run("--photos", "14", "--classifier", quick, "--defenses", "jpeg", "-o", "table.csv")
    assert (table["n"] == 14).all() and table["correct"].iloc[0] > 2
    assert "on 700 images" in capsys.readouterr().err


def test_a_restoration(study):
    arguments = "tdips:iterations=2,first_iterations=2,feature_scale=32,first_width=0.125"
    table = run(*OWN, "--count", "2", "--defenses", arguments)
    assert table["defense"].tolist() == ["none", arguments]


def test_a_checkpoint_of_one_s_own_and_one_of_the_pipeline(study):
    """torchvision's names in .safetensors, and what rule train_classifier writes."""
    torch.manual_seed(0)
    net = Torchvision(architecture="shufflenet_v2_x0_5", classes=3).eval()
    save_file({f"module.{k}": v for k, v in net.net.state_dict().items()}, "net.safetensors")
    small = SmallCNN(classes=3, width=4).eval()
    settings = {"classes": 3, "width": 4}
    target = "tandem_defense.classifiers.small:SmallCNN"
    write_weights("small.safetensors", small.state_dict(), {"class": target, "settings": settings})
    cases = {"torchvision:shufflenet_v2_x0_5,classes=3": ("net.safetensors", net)}
    cases["small_cnn"] = ("small.safetensors", small)
    data = Folder(folder="pictures", size=24, test=12).load()["test"]
    x, labels = to_tensor(data.images), torch.from_numpy(data.labels)
    for text, (path, module) in cases.items():
        arguments = ["--images", "pictures", "--classifier", text, "--weights", path]
        table = run(*arguments, "-o", "table.csv")
        assert table["correct"].tolist() == [int((module.predict(x) == labels).sum())]


def test_a_trained_defense(study, capsys):
    magnet = MagNet(channels=3)
    magnet.thresholds.zero_()
    entry = {"class": "tandem_defense.defenses.magnet:MagNet", "settings": {"channels": 3}}
    write_weights("magnet.safetensors", magnet.state_dict(), entry)
    table = run(*OWN, "--defenses", "magnet:weights=magnet.safetensors")
    assert table["rejected"].tolist() == [0, 12] and table["correct"].tolist() == [12, 0]
    for wrong, why in {
        "magnet": "a magnet has to be trained: give weights=FILE, a file that a run of",
        "comdefend:weights=released": "a comdefend has to be trained",
        "hgd:weights=magnet.safetensors": "has weights of tandem_defense.defenses.magnet:MagNet",
        "magnet:channels=1,weights=magnet.safetensors": "leave out channels=1",
        "magnet:weights=absent.safetensors": "there is no file absent.safetensors",
        "magnet:weights=mine.pth": "truncated or not one of ours",
    }.items():
        (study / "mine.pth").write_bytes(b"no weights")
        run(*OWN, "--defenses", wrong, status=2)
        assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (["--attacks", "fgms"], "attacks: found 'fgms', allowed is one of fgsm, gradient, .*, or"),
        (["--attacks", "fgsm:eps=1"], "fgsm:eps=1: unknown key eps; allowed are clip, epsilon, "),
        (["--attacks", "fgsm:epsilon=8"], "epsilon: found 8, allowed is .*of 255 write 8/255"),
        (["--attacks", "bim:steps=1,steps=2"], "steps is there twice"),
        (["--attacks", "fgsm", "fgsm"], "--attacks: fgsm is there twice"),
        (["--defenses", "average_blur:kernel=4"], "kernel: found 4, allowed is an odd number"),
        (["--defenses", "jpeg:gradient=bpda"], "gradient: found 'bpda', allowed is one of none"),
        (["--defenses", "mine.py:Median"], "mine.py has no class Median"),
        (["--defenses", "other.py:Median"], "there is no file other.py"),
        (["--classifier", "nothing"], "classifiers: found 'nothing', allowed is one of small_cnn"),
        (["--classifier", "mine.py:nothing"], "has no attribute 'nothing'"),
        (["--classifier", "torchvision"], "torchvision: lacks the key architecture"),
        (["--classifier", "torchvision:resnet5"], "architecture 'resnet5' is not torchvision's"),
        (["--classifier", "torchvision:resnet18,weights=V3"], "found 'V3', allowed is one of IMAG"),
        (["--classifier", "torchvision:resnet18,training.epoch=1"], "unknown key epoch; allowed"),
        (["--classifier", "mine.py:Means:training.epochs=1"], "but is not trained here"),
        (["--classifier", "small_cnn:channels=1"], "has no pictures to train on"),
        (["--weights", "absent.pth"], "there is no file absent.pth"),
        (["--weights", "mine.bin"], "found mine.bin, expected a file that ends with .pth"),
        (["--images", "absent"], "absent is not a folder"),
        (["--images", "mine.py"], "mine.py is not a folder"),
        (["--labels", "absent.csv"], "absent.csv cannot be read"),
        (["--count", "13"], "pictures has 12 pictures, --count is 13"),
        (["--device", "tpu9"], "tpu9"),
        (["-o", "absent/table.csv"], "absent is not a folder"),
        (["-o", "pictures"], "--output pictures is a folder; expected a file .*pictures/table.csv"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_anything_is_computed(study, capsys, wrong, why):
    run(*OWN, *wrong, status=2)
    err = capsys.readouterr().err
    assert re.search(f"^tandem-defense: .*{why}", err) and err.count("\n") == 1
    assert not (study / "table.csv").exists()


def test_the_photographs_want_a_classifier_for_them(study, capsys):
    run("--photos", "7", "--classifier", "mine.py:Means", status=2)
    assert (
        "mine.py:Means has 3 classes, the photographs 7: take small_cnn" in capsys.readouterr().err
    )


def test_without_a_network_the_download_is_explained(study, capsys, monkeypatch):
    """Whatever the client says: torch.hub asks a port where nobody listens."""
    monkeypatch.setenv("TORCH_HOME", str(study))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # a process reads its proxies once
    run(*OWN, "--classifier", "torchvision:resnet18", status=2)
    err = capsys.readouterr().err
    assert "the weights of resnet18 could not be downloaded" in err and "--weights" in err


def test_what_has_no_effect_on_scikit_images_photographs_is_refused(capsys):
    for extra in (["--labels", "table.csv"], ["--count", "3"]):
        command = ["evaluate", "--photos", "--classifier", "small_cnn", "--attacks", "fgsm", *extra]
        assert cli.main(command) == 2
        assert f"{extra[0]} has no effect on --photos" in capsys.readouterr().err


def test_arguments_that_argparse_refuses(capsys):
    for wrong in (["--classifier", "a"], ["--photos", "--images", "a", "--classifier", "b"]):
        assert cli.main(["evaluate", *wrong]) == 2
