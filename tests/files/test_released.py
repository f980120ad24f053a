"""Released weights: checked before they are read, converted; the rules that bring them."""

import gzip
import io
import os
import tomllib
import zipfile

import numpy as np
import pytest
import torch
import yaml
from checkout import copy_workflow, planned, snakemake
from scipy.special import expit
from source import file, running

from tandem_defense.classifiers.torchvision import Torchvision
from tandem_defense.defenses.comdefend import ComDefend
from tandem_defense.files.base import FileError
from tandem_defense.pipeline import classes, convert, entries
from tandem_defense.pipeline.demand import Experiment

SMALL = {"compression": (4, 5), "reconstruction": (5, 3), "code": 6}


def tensorflow_weights(rng, *widths: int) -> list[np.ndarray]:
    """Kernels (3, 3, in, out) and biases of a stack of convolutions."""
    arrays = []
    for i, o in zip(widths, widths[1:]):
        arrays += [rng.normal(0, 1 / (3 * i**0.5), (3, 3, i, o)), rng.normal(0, 0.1, o)]
    return [a.astype(np.float32) for a in arrays]


def released_file(path, arrays) -> str:
    """A file as the release has them: savez of one array of objects."""
    objects = np.empty(len(arrays), object)
    objects[:] = arrays
    with open(path, "wb") as stream:
        np.savez_compressed(stream, w=objects)
    return str(path)


def convolved(image: np.ndarray, arrays: list[np.ndarray]) -> np.ndarray:
    """What TensorFlow computes: (H, W, in) to (H, W, out), written as its definition, with ELU."""
    for layer in range(0, len(arrays), 2):
        kernel, bias = arrays[layer], arrays[layer + 1]
        height, width, _ = image.shape
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
        image = bias + sum(
            padded[dy : dy + height, dx : dx + width] @ kernel[dy, dx]
            for dy in range(3)
            for dx in range(3)
        )
        if layer + 2 < len(arrays):
            image = np.where(image > 0, image, np.expm1(image))
    return image


# ComDefend


def test_released_comdefend_computes_what_tensorflow_does(tmp_path):
    rng = np.random.default_rng(1)
    compress, reconstruct = tensorflow_weights(rng, 3, 4, 5, 6), tensorflow_weights(rng, 6, 5, 3, 3)
    model = ComDefend(test_noise=0, weights="released", **SMALL)
    model.read_checkpoint(
        released_file(tmp_path / "c.npy", compress), released_file(tmp_path / "r.npy", reconstruct)
    )
    image = rng.random((7, 9, 3), dtype=np.float32)
    linear = convolved(image - 0.5, compress)
    expected = expit(convolved((linear > 0).astype(np.float32), reconstruct))
    found = model(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    assert np.abs(linear).min() > 1e-5  # no bit on the edge
    assert np.abs(found.detach().numpy() - expected).max() < 1e-5


def test_files_of_another_network_are_refused(tmp_path):
    rng = np.random.default_rng(1)
    right = released_file(tmp_path / "c.npy", tensorflow_weights(rng, 3, 4, 5, 6))
    model = ComDefend(weights="released", **SMALL)
    with pytest.raises(ValueError, match=r"c.npy holds .*expected .*default compression"):
        model.read_checkpoint(right, right)


# Conversion and rules

MEMBERS = {f"{i}.png": os.urandom(500) for i in range(3)}


def sha(content: bytes) -> str:
    from hashlib import sha256

    return sha256(content).hexdigest()


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """Tiny stand-ins for everything in the manifest: name to content."""
    folder = tmp_path_factory.mktemp("release")
    net = Torchvision(architecture="shufflenet_v2_x0_5").net
    torch.save(net.state_dict(), folder / "net.pth")
    rng = np.random.default_rng(2)
    default = ComDefend()
    for name, layers in (("enc", default.compress), ("dec", default.reconstruct)):
        found = [m for m in layers if isinstance(m, torch.nn.Conv2d)]
        widths = [found[0].in_channels, *[m.out_channels for m in found]]
        released_file(folder / f"{name}.npy", tensorflow_weights(rng, *widths))
    return {
        "mnist/t10k-labels-idx1-ubyte": b"\0\0\x08\1" + bytes(3) + b"\2" + bytes(2),
        "torchvision/shufflenet_v2_x0_5-IMAGENET1K_V1.pth": (folder / "net.pth").read_bytes(),
        "comdefend/enc20_0.0001.npy": (folder / "enc.npy").read_bytes(),
        "comdefend/dec20_0.0001.npy": (folder / "dec.npy").read_bytes(),
    }


@pytest.fixture
def checkout(root, tmp_path, release):
    """The workflow with a manifest of the stand-ins; its configuration asks for all of them."""
    checkout = copy_workflow(root, tmp_path)
    config = yaml.safe_load((checkout / "config.yaml").read_text())
    experiment = config["experiments"]["tdips"]
    net = experiment["classifiers"]["resnet50"] | {"architecture": "shufflenet_v2_x0_5"}
    experiment["classifiers"] = {"inception_v3": net}
    (checkout / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return checkout


def write_manifest(checkout, release, source):
    """Point every name at `source`; its files and an archive are served there."""
    lines = []
    for name, content in release.items():
        packed = name.startswith("mnist")
        url = source.add(f"/{name}", file(gzip.compress(content) if packed else content))
        digest = sha(content)[:8] if name.startswith("torchvision") else sha(content)
        lines += [f'["{name}"]', f'urls = ["{url}"]', f'sha256 = "{digest}"']
        lines += ['unpack = "gzip"'] * packed
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as packed:
        for name, content in MEMBERS.items():
            packed.writestr(f"repo-1a2b/dataset/images/{name}", content)
    url = source.add("/images.zip", file(data.getvalue()))
    lines += ['["nips2017/images"]', f'urls = ["{url}"]']
    lines += ['members = "nips2017dev.csv"', 'folder = "dataset/images"']
    text = "\n".join(lines)
    assert tomllib.loads(text)
    (checkout / "resources/downloads.toml").write_text(text)
    rows = [f"{name},{sha(content)},{len(content)}" for name, content in MEMBERS.items()]
    (checkout / "resources/nips2017dev.csv").write_text("\n".join(["file,sha256,size", *rows]))


TARGETS = (
    "results/downloads/mnist/t10k-labels-idx1-ubyte",
    "results/downloads/nips2017/images",
    "results/classifiers/tdips/0/inception_v3.safetensors",
    "results/defenses/tdips/0/any/comdefend.safetensors",
)


def run(checkout, *arguments: str):
    return snakemake(checkout, "--directory", ".", "--cores", "1", *arguments)


def test_the_rules_bring_everything(checkout, release):
    with running() as source:
        write_manifest(checkout, release, source)
        done = run(checkout, *TARGETS)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "is complete, its checksum is right" in done.stderr  # progress is on the terminal
    downloads = checkout / "results/downloads"
    for name, content in release.items():
        assert (downloads / name).read_bytes() == content
    assert {
        p.name: p.read_bytes() for p in (downloads / "nips2017/images").glob("*.png")
    } == MEMBERS

    config = yaml.safe_load((checkout / "config.yaml").read_text())["experiments"]["tdips"]
    for section, name, path in (
        ("classifiers", "inception_v3", TARGETS[2]),
        ("defenses", "comdefend", TARGETS[3]),
    ):
        images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        entry = Experiment("tdips", config).entry(section, name)
        loaded = entries.load(entry, str(checkout / path), torch.device("cpu"))
        untrained = classes.build(entry).eval()
        with torch.no_grad():
            assert not torch.allclose(loaded(images), untrained(images))
        if section == "classifiers":
            state = torch.load(
                io.BytesIO(release["torchvision/shufflenet_v2_x0_5-IMAGENET1K_V1.pth"]),
                weights_only=True,
            )
            untrained.net.load_state_dict(state)
            assert torch.equal(loaded(images), untrained.eval()(images))

    # The checksum says what a file is: neither new addresses nor `offline` fetch it again.
    manifest = checkout / "resources/downloads.toml"
    manifest.write_text(manifest.read_text().replace("127.0.0.1", "localhost"))
    with (checkout / "config.yaml").open("a") as stream:
        stream.write("\noffline: resources\n")
    assert planned(run(checkout, "-n", *TARGETS)) == {}

    # A checkpoint that was altered afterwards is not loaded.
    altered = downloads / "comdefend/dec20_0.0001.npy"
    stat = altered.stat()
    altered.write_bytes(altered.read_bytes()[:-1] + b"x")
    os.utime(altered, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    done = run(checkout, "--forcerun", "convert_defense_weights", "--", TARGETS[3])
    assert done.returncode != 0
    printed = done.stdout + done.stderr
    assert "dec20_0.0001.npy: its SHA-256 is" in printed and "rule download brings it" in printed


def test_the_rules_take_local_copies(checkout, release, tmp_path_factory):
    shelf = tmp_path_factory.mktemp("shelf")
    with running() as source:
        write_manifest(checkout, release, source)
        with (checkout / "config.yaml").open("a") as stream:
            stream.write(f"\noffline: {shelf}\n")
        for name, content in release.items():
            (shelf / name).parent.mkdir(exist_ok=True)
            (shelf / name).write_bytes(content)
        done = run(checkout, TARGETS[0], TARGETS[1])
        assert done.returncode != 0
        printed = done.stdout + done.stderr
        assert f"nips2017/images is not in the folder of the key `offline`: put it at {shelf}" in (
            printed
        )
        (shelf / "nips2017/images").mkdir(parents=True)
        for name, content in MEMBERS.items():
            (shelf / "nips2017/images" / name).write_bytes(content)
        done = run(checkout, *TARGETS)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not source.requests
    downloads = checkout / "results/downloads"
    assert {
        p.name: p.read_bytes() for p in (downloads / "nips2017/images").glob("*.png")
    } == MEMBERS


class Malicious:
    """Its pickle runs a command where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_with_another_hash_is_not_read(tmp_path):
    """It would run a command if it were."""
    entry = {"class": "tandem_defense.classifiers.torchvision:Torchvision"}
    entry["settings"] = {"architecture": "shufflenet_v2_x0_5", "weights": "A"}
    path, trace = tmp_path / "net.pth", tmp_path / "trace"
    torch.save({"a": Malicious(trace)}, path)
    manifest = tmp_path / "downloads.toml"
    for digest, error, words in (
        ("00000000", ValueError, "expected 00000000"),
        (sha(path.read_bytes())[:8], FileError, "which is code to run"),
    ):
        manifest.write_text(f'[net]\nurls = []\nsha256 = "{digest}"\n')
        with pytest.raises(error, match=words):
            convert.checkpoint(entry, {"net": str(path)}, str(manifest), str(tmp_path / "out"))
    assert not trace.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("other", ["first", "second"])
def test_no_pickle_with_another_hash_is_read(tmp_path, other):
    """Neither file of ComDefend's is read before both are the authors'."""
    trace, path = tmp_path / "trace", str(tmp_path / "pickle.npy")
    released_file(path, [Malicious(trace)])
    with open(path, "rb") as stream:
        digests = dict.fromkeys(("first", "second"), sha(stream.read()))
    digests[other] = sha(b"another file")
    manifest = tmp_path / "downloads.toml"
    manifest.write_text(
        "".join(f'[{name}]\nurls = []\nsha256 = "{digests[name]}"\n' for name in digests)
    )
    entry = {"class": "tandem_defense.defenses.comdefend:ComDefend"}
    entry["settings"] = {"weights": "released"}
    files, output = dict.fromkeys(digests, path), str(tmp_path / "out")
    with pytest.raises(ValueError, match=f"pickle.npy is not {other}: its SHA-256 is"):
        convert.checkpoint(entry, files, str(manifest), output)
    assert not trace.exists() and not (tmp_path / "out").exists()
    np.load(path, allow_pickle=True)["w"]  # the file is what it claims to be
    assert trace.exists()
