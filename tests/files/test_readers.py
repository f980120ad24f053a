"""Every reader against hundreds of damaged files: each is named with its remedy, or as it was."""

import copy
import gzip
import io
import logging
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from judged import rows as judged
from PIL import Image
from stored import adversarial, image_set

from tandem_defense.classifiers.small import SmallCNN
from tandem_defense.datasets.mnist import MNIST
from tandem_defense.datasets.nips2017 import NIPS2017
from tandem_defense.evaluation.published import read_table
from tandem_defense.files import arrays, download, judgments, predictions
from tandem_defense.files.adversarial import read_adversarial, write_adversarial
from tandem_defense.files.base import FileError
from tandem_defense.files.candidates import (
    FLAGS,
    CandidateSet,
    read_candidates,
    write_candidates,
)
from tandem_defense.files.images import read_images, write_images
from tandem_defense.files.restored import read_restored, write_restored
from tandem_defense.files.weights import read_weights, write_weights
from tandem_defense.pipeline import checkpoint, classes, configuration, convert, entries
from tandem_defense.pipeline.demand import Experiment
from tandem_defense.pipeline.work import work


@dataclass
class Reader:
    """A sound file and how it is read; what comes back is compared by its digest."""

    file: Path
    read: Callable[[], object]
    kept: bool = True  # whether every changed value is found, not only a changed form


def rows(n: int = 4) -> pd.DataFrame:
    """Prediction rows."""
    words = dict.fromkeys(("dataset", "classifier", "attack", "defense"), "a")
    numbers = dict.fromkeys(("seed", "first_iterations", "iteration", "prediction"), 1)
    table = words | numbers | {"rejected": False, "success": True, "linf": 0.1, "l2": 0.5}
    table |= {"label": 2, "clean_prediction": 2, "image": [f"image-{i}" for i in range(n)]}
    return pd.DataFrame(table)


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.fixture(scope="module")
def readers(tmp_path_factory, root) -> dict[str, Reader]:
    folder = tmp_path_factory.mktemp("files")
    found = {}

    def add(name, read, file=None, **options):
        file = file or folder / name
        found[name] = Reader(file, lambda: read(file), **options)

    write_images(folder / "images", image_set())
    add("images", read_images)
    write_adversarial(folder / "adversarial", adversarial())
    add("adversarial", read_adversarial)
    write_restored(folder / "restored", {"0/5": np.zeros((2, 3, 4, 4), "f4")}, ["a", "b"])
    add("restored", read_restored)
    write_weights(folder / "weights", torch.nn.Linear(3, 2).state_dict(), {"width": 3})
    add("weights", lambda file: read_weights(file, {"width": 3}))
    predictions.write(rows(), folder / "predictions")
    add("predictions", lambda file: predictions.read(file, "evaluate"))

    flags = {name: np.zeros((1, 2), bool) for name in FLAGS}
    norms, attacked = np.zeros((1, 2), np.float32), np.zeros((1, 2, 1, 4, 4), np.float32)
    told = {"ids": ("a", "b"), "epsilons": (0.1,), "attack": "pgd", "settings": {}, "classes": 3}
    chunk = CandidateSet(attacked, np.array([0, 1]), norms, norms, **flags, **told)
    write_candidates(folder / "candidates", chunk)
    add("candidates", read_candidates)
    judgments.write(judged(["cw"], "bpda"), folder / "judgments")
    add("judgments", lambda file: judgments.read(file, "evaluate_threats"))

    mnist = folder / "mnist"
    mnist.mkdir()
    for split in ("train", "t10k"):
        (mnist / f"{split}-images-idx3-ubyte").write_bytes(idx(np.zeros((2, 28, 28), np.uint8)))
        (mnist / f"{split}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(idx(np.array([3, 9], np.uint8)))
        )
    read = lambda file: MNIST(folder=str(mnist), test=2).load()  # noqa: E731
    add("mnist", read, mnist / "train-images-idx3-ubyte", kept=False)  # has no checksum
    add("mnist.gz", read, mnist / "t10k-labels-idx1-ubyte.gz")

    nips = folder / "nips"
    (nips / "images").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (13, 13, 3), np.uint8)
    picture = Image.fromarray(np.kron(pixels, np.ones((23, 23, 1), np.uint8)))
    picture.save(nips / "images/a.png")
    (nips / "images.csv").write_text(
        "ImageId,TrueLabel,Author,OriginalLandingURL,License\na,1,b,https://c,https://d\n"
    )
    read = lambda file: NIPS2017(folder=str(nips), test=1).load()  # noqa: E731
    add("nips.png", read, nips / "images/a.png")
    add("nips.csv", read, nips / "images.csv", kept=False)

    np.savez(folder / "released.npz", w=np.arange(6.0))
    manifest = folder / "downloads.toml"
    digest = sha256((folder / "released.npz").read_bytes()).hexdigest()
    manifest.write_text(f'[released]\nurls = []\nsha256 = "{digest}"\n')

    def released(file):
        entry = {"class": "tandem_defense.defenses.comdefend:ComDefend"}
        entry["settings"] = {"weights": "released"}
        try:
            convert.checkpoint(entry, {"released": file}, manifest, folder / "out")
        except TypeError:  # one file, where ComDefend has two: it has passed the check
            return file.read_bytes()

    add("released.npz", released)
    published = folder / "published.csv"
    published.write_text((root / "resources/published/table1.csv").read_text()[:200] + "5\n")
    add("published", lambda file: read_table(file, ("accuracy",)), published, kept=False)
    return found


def digest(value: object) -> str:
    """Of all arrays, texts and numbers in what a reader returns."""
    total = sha256()

    def add(item):
        if isinstance(item, torch.Tensor):
            item = item.numpy()
        if isinstance(item, np.ndarray):
            total.update(f"{item.dtype} {item.shape}".encode() + item.tobytes())
        elif isinstance(item, pd.DataFrame):
            total.update(item.to_csv().encode())
        elif isinstance(item, dict):
            [add(x) for pair in sorted(item.items(), key=lambda pair: str(pair[0])) for x in pair]
        elif isinstance(item, list | tuple):
            [add(x) for x in item]
        elif hasattr(item, "__dataclass_fields__"):
            add(vars(item))
        else:
            total.update(repr(item).encode())

    add(value)
    return total.hexdigest()


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """The content, truncated, with flipped, lost, added, or zeroed bytes, or none at all."""
    data = bytearray(content)
    start = draw(st.integers(0, len(data) - 1))
    length = draw(st.integers(1, 40))
    match draw(st.sampled_from(["cut", "flip", "lose", "add", "zero", "empty", "other"])):
        case "cut":
            return bytes(data[:start])
        case "flip":
            data[start] ^= draw(st.integers(1, 255))
        case "lose":
            del data[start : start + length]
        case "add":
            data[start:start] = draw(st.binary(min_size=1, max_size=40))
        case "zero":
            data[start : start + length] = bytes(len(data[start : start + length]))
        case "empty":
            return b""
        case "other":
            return draw(st.binary(max_size=200))
    return bytes(data)


READERS = ["images", "adversarial", "restored", "weights", "predictions", "mnist", "mnist.gz"]
READERS += ["nips.png", "nips.csv", "released.npz", "published", "candidates", "judgments"]


@pytest.mark.parametrize("name", READERS)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_is_named_or_harmless(readers, name, data):
    reader = readers[name]
    sound = reader.file.read_bytes()
    expected = digest(reader.read())
    reader.file.write_bytes(data.draw(damaged(sound)))
    try:
        found = reader.read()
    except ValueError as error:
        # The names that a table lists are other files.
        assert str(reader.file.parent) in str(error), error
        assert isinstance(error, FileError) or name in ("released.npz", "nips.csv")
    except FileNotFoundError:
        assert name == "nips.csv"  # another image is named there
    else:
        assert not reader.kept or digest(found) == expected
    finally:
        reader.file.write_bytes(sound)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_damaged_checkpoint_is_named_or_harmless(tmp_path, caplog, data):
    path = tmp_path / "c"
    path.unlink(missing_ok=True)  # of the example before

    def steps(broken: bool) -> int:
        with checkpoint.kept(path, {"seed": 0}):
            counter = torch.zeros(3)
            part = checkpoint.part("p", {"counter": counter}, steps=0).resume()
            found = part.progress["steps"]
            assert counter.tolist() == [found] * 3
            counter += 7 - found
            part.progress["steps"] = 7
            part.save()
            if broken:
                raise KeyboardInterrupt
        return found

    with pytest.raises(KeyboardInterrupt):
        steps(True)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        found = steps(False)
    assert found == 7 or found == 0 and f"checkpoint: {path} " in caplog.text


# --- contents that no job writes, in files whose checksums are right ---


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_contents_of_the_wrong_kind_are_refused(tmp_path, data):
    """One array or one piece of metadata is replaced by something else."""
    kind = data.draw(st.sampled_from(["images", "adversarial", "restored", "weights"]))
    path = tmp_path / kind
    match kind:
        case "images":
            write_images(path, image_set())
        case "adversarial":
            write_adversarial(path, adversarial())
        case "restored":
            write_restored(path, {"0/5": np.zeros((2, 3, 4, 4), "f4")}, ["a", "b"])
        case "weights":
            write_weights(path, torch.nn.Linear(3, 2).state_dict(), {"width": 3})
    tensors, metadata = arrays.read(path, kind)
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(tensors)))
        shape = data.draw(st.sampled_from([(), (3,), (2, 3), (3, 3, 4, 5), (0,)]))
        value = data.draw(st.sampled_from([0, 1, -1, 7, np.nan, np.inf, 1e9]))
        kinds = st.sampled_from(["float32", "float64", "int64", "uint8", "bool"])
        with np.errstate(invalid="ignore"):
            tensors[name] = np.full(shape, value).astype(data.draw(kinds))
    else:
        name = data.draw(st.sampled_from(sorted(metadata)))
        json_like = st.none() | st.integers(-2, 9) | st.text(max_size=3)
        other = st.lists(json_like, max_size=4) | st.dictionaries(st.text(max_size=2), json_like)
        metadata[name] = data.draw(json_like | other)
    arrays.write(path, kind, tensors, **metadata)
    read = {
        "images": read_images,
        "adversarial": read_adversarial,
        "restored": read_restored,
        "weights": lambda file: read_weights(file, {"width": 3}),
    }[kind]
    try:
        found = read(path)
    except arrays.CacheError as error:
        assert str(path) in str(error) and "Delete it and run" in str(error)
        return
    match kind:  # what has passed is sound
        case "images":
            assert found.images.dtype == np.uint8 and len(found) == len(found.labels)
            assert all(0 <= label < len(found.classes) for label in found.labels)
        case "adversarial":
            assert ((found.images >= 0) & (found.images <= 1)).all()
            assert np.isfinite(found.l2).all() and found.success.dtype == bool
            assert all(0 <= label < found.classes for label in found.prediction)
        case "restored":
            assert all(((a >= 0) & (a <= 1)).all() for a in found[0].values())
        case "weights":
            assert not any(torch.isnan(v).any() for v in found.values())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"linf": np.nan}, "missing values"),
        ({"l2": np.inf}, "norms below 0 or infinite"),
        ({"linf": -1.0}, "norms below 0 or infinite"),
        ({"label": -1}, "classes below 0"),
        ({"prediction": -1}, "classes below 0"),
    ],
)
def test_predictions_that_cannot_be_are_refused(tmp_path, change, why):
    predictions.write(rows().assign(**change), tmp_path / "p")
    with pytest.raises(FileError, match=f"{why}.*rule evaluate makes it,"):
        predictions.read(tmp_path / "p", "evaluate")


def test_predictions_of_another_form_are_refused(tmp_path):
    table = rows()[predictions.COLUMNS].astype(predictions.TYPES)
    path = tmp_path / "p"
    for wrong, why in (
        (table.drop(columns="l2"), "has the columns"),
        (table.astype({"label": "int32"}), "has the types"),
        (table, "checksum"),  # right, but not written by us
    ):
        wrong.to_parquet(path, index=False)
        with pytest.raises(FileError, match=why):
            predictions.read(path, "evaluate")
    predictions.write(rows(0), path)
    with pytest.raises(FileError, match="no rows"):
        predictions.read(path, "evaluate")
    predictions.write(rows(), path)
    pd.testing.assert_frame_equal(predictions.read(path, "evaluate"), table)


def test_gathered_predictions_are_their_rows_in_order(tmp_path):
    parts = [rows(3), rows(2).assign(attack="bim", seed=1)]
    files = [tmp_path / f"{i}.parquet" for i in range(2)]
    for part, file in zip(parts, files):
        predictions.write(part, file)
    whole = tmp_path / "all.parquet"
    predictions.gather(files, whole)
    found = predictions.read(whole, "gather_predictions")
    expected = pd.concat(parts)[predictions.COLUMNS].astype(predictions.TYPES)
    pd.testing.assert_frame_equal(found, expected.reset_index(drop=True))
    files[1].write_bytes(files[1].read_bytes()[:-9])
    whole.unlink()
    with pytest.raises(FileError, match="1.parquet cannot be read.*evaluate, restore or"):
        predictions.gather(files, whole)
    assert not list(tmp_path.glob("*all*")) and not list(tmp_path.glob(".*"))


def test_weights_of_another_shape_are_refused(tmp_path):
    """Of the right settings, but written by other code."""
    settings = {"classes": 3, "width": 4}
    entry = {"class": "tandem_defense.classifiers.small:SmallCNN", "settings": settings}
    state = SmallCNN(classes=3, width=8).state_dict()
    write_weights(tmp_path / "w", state, classes.identity(entry))
    with pytest.raises(FileError, match=r"(?s)w does not fit .*SmallCNN .*size mismatch.*Delete"):
        entries.load(entry, str(tmp_path / "w"), torch.device("cpu"))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_damaged_archive_is_named_or_its_files_are_right(tmp_path, data):
    contents = {"a.png": b"a" * 300, "b.png": bytes(range(256))}
    members = [
        {"file": name, "size": len(content), "sha256": sha256(content).hexdigest()}
        for name, content in contents.items()
    ]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(f"r/images/{name}", content)
    (tmp_path / "images.zip").write_bytes(data.draw(damaged(packed.getvalue())))
    out = tmp_path / "out/images"
    entry = {"folder": "images"}
    try:
        download.get("images", entry, out, members=members, offline=tmp_path)
    except download.DownloadError as error:
        assert str(tmp_path / "images.zip") in str(error)
    else:
        assert {p.name: p.read_bytes() for p in out.iterdir()} == contents


# --- the configuration ---


def leaves(value, path=()):
    """Paths to everything in a tree."""
    yield path
    items = value.items() if isinstance(value, dict) else []
    items = enumerate(value) if isinstance(value, list) else items
    for key, item in items:
        yield from leaves(item, (*path, key))


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_wrong_configuration_is_refused_or_can_be_run(config, schema, data):
    """Any part of it replaced by anything: a complaint, or nothing to complain about."""
    changed = copy.deepcopy(config)
    *where, last = data.draw(st.sampled_from([path for path in leaves(config) if path]))
    part = changed
    for key in where:
        part = part[key]
    scalar = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    part[last] = data.draw(
        scalar | st.lists(scalar, max_size=2) | st.dictionaries(st.text(max_size=5), scalar)
    )
    found = configuration.with_fractions(changed)
    try:
        configuration.check(found, schema)
    except configuration.ConfigurationError as error:
        assert "the configuration cannot be run:\n  " in str(error)
    else:
        for name, spec in found["experiments"].items():
            experiment = Experiment(name, spec)
            assert experiment.prediction_files() and work(experiment)["images"] == spec["images"]
            assert bool(experiment.judged_files()) == bool(spec.get("threats"))
