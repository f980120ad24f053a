"""A killed job goes on where it was, and its result is that of a job that was not killed."""

import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import killed
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from checkout import copy_workflow, snakemake
from safetensors import safe_open

from tandem_defense.attacks.iterative import PGD
from tandem_defense.classifiers.autoencoder import FUNN, ClassicAutoencoder
from tandem_defense.classifiers.small import SmallCNN
from tandem_defense.classifiers.torchvision import Torchvision
from tandem_defense.datasets.base import ImageSet
from tandem_defense.defenses.comdefend import ComDefend
from tandem_defense.defenses.dip import DIP, TandemDIP
from tandem_defense.defenses.hgd import HGD
from tandem_defense.defenses.magnet import MagNet
from tandem_defense.evaluation.rows import Chunk
from tandem_defense.files import judgments
from tandem_defense.files.base import FileError
from tandem_defense.files.candidates import read_candidates, write_candidates
from tandem_defense.files.images import write_images
from tandem_defense.files.weights import write_weights
from tandem_defense.pipeline import checkpoint, classes
from tandem_defense.pipeline import threats as stage
from tandem_defense.pipeline.restore import restore as run
from tandem_defense.restoration import native
from tandem_defense.restoration.stopping import EarlyStopping, VarianceMonitor

CLASSIFIER = {
    "class": "tandem_defense.classifiers.small:SmallCNN",
    "settings": {"classes": 3, "width": 4},
}
RESTORATION = {"feature_scale": 32, "smoothing": 0.9}
READOUTS = {"iterations": [15, 40], "first_iterations": [12, 25]}


class Killed(BaseException):
    """Stands for SIGKILL where the process is the tests' own."""


@pytest.fixture
def often(monkeypatch):
    """Save at every opportunity, not once a minute."""
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", math.inf)


@pytest.fixture
def kill_after(often, monkeypatch):
    """``kill_after(n)``: the n-th checkpoint from now on is the last thing that happens."""

    def arm(saves):
        monkeypatch.setattr(checkpoint.Checkpoint, "save", killed.after(saves, strike))

    def strike():
        monkeypatch.setattr(checkpoint.Checkpoint, "save", write)
        raise Killed

    write = checkpoint.Checkpoint.save
    return arm


def kill(folder, saves: int, phase: str, function: str, *arguments) -> None:
    """Run a function of this module in a process that dies so many checkpoints into a phase."""
    done = subprocess.run(
        [sys.executable, killed.__file__, str(saves), phase, "test_checkpoint"]
        + [function, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def steps_resumed(text: str) -> list[int]:
    """The steps at which the log says that images went on."""
    return [int(n) for n in re.findall(r"at step (\d+)", text)]


# --- restoration ---


def restore(folder: str, kind: str = "tdips") -> None:
    """A small job of the rule `restore`: three images, two read-outs, two λ₁."""
    folder = Path(folder)
    weights = folder / "net"
    if not weights.exists():
        torch.manual_seed(0)
        net = SmallCNN(classes=3, width=4)
        write_weights(weights, net.state_dict(), classes.identity(CLASSIFIER))
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    zeros = np.zeros(3, np.float32)
    columns = {"label": np.arange(3), "linf": zeros, "l2": zeros}
    name = {"tdips": "TandemDIP", "dip": "DIP"}[kind]
    extra = {"first_width": 0.125} if kind == "tdips" else {}
    entry = {"class": f"tandem_defense.defenses.dip:{name}", "settings": RESTORATION | extra}
    readouts = READOUTS | ({} if kind == "tdips" else {"first_iterations": []})
    with checkpoint.kept(folder / "checkpoint", {"entry": entry}, [weights]):
        run(
            Chunk(images, ("a", "b", "c"), columns),
            {"dataset": "photos", "attack": "clean", "defense": kind},
            {"net": (CLASSIFIER, str(weights))},
            entry,
            str(folder / "rows.parquet"),
            readouts=readouts,
            keep=2,
            shown_output=str(folder / "shown"),
            seed=0,
            threads=1,
        )


def results(folder) -> tuple[bytes, bytes]:
    return (folder / "rows.parquet").read_bytes(), (folder / "shown").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The job's folder where nothing killed it."""
    folder = tmp_path_factory.mktemp("whole")
    restore(str(folder))
    return folder


# The thread that computes does not wait for the writing: after the first checkpoint of a phase it
# depends on the disk's speed which steps are kept.
@pytest.mark.parametrize(("saves", "phase"), [(1, "dip1"), (1, "dip2"), (4, "dip2")])
def test_a_killed_restoration_goes_on_to_the_same_bytes(tmp_path, caplog, whole, saves, phase):
    """In DIP₁ and in DIP₂."""
    caplog.set_level("INFO")
    kill(tmp_path, saves, phase, "restore", ".")
    assert (tmp_path / "checkpoint").exists() and not (tmp_path / "rows.parquet").exists()
    restore(str(tmp_path))
    (done, step) = re.findall(phase + r": going on with (\d) of \d fits done; (.*)", caplog.text)[0]
    assert (done, step) == ("0", "0 at step 10") if saves == 1 else int(done) or steps_resumed(step)
    assert results(tmp_path) == results(whole)
    rows = pd.read_parquet(tmp_path / "rows.parquet")
    assert len(rows) == 2 * 2 * 3 and (rows["prediction"] >= 0).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net", "rows.parquet", "shown"]


def test_lanes_go_on_too(tmp_path, caplog, kill_after, monkeypatch):
    """The engine of GPUs, here on the CPU; all lanes are kept."""
    caplog.set_level("INFO")
    monkeypatch.setattr(native, "library", lambda narrow: None)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    for folder in (whole, resumed):
        folder.mkdir()
    restore(str(whole), "dip")
    kill_after(4)
    with pytest.raises(Killed):
        restore(str(resumed), "dip")
    restore(str(resumed), "dip")
    assert steps_resumed(caplog.text) == [35, 35, 35]
    assert results(resumed) == results(whole)


def test_one_engine_goes_on_where_another_was(tmp_path, caplog, kill_after, monkeypatch):
    """From two lanes to compiled code, one image at a time, with early stopping."""
    caplog.set_level("INFO")
    settings = {"learning_rate": 0.05, "smoothing": 0.5, "precision": "float64"}
    defense = DIP(iterations=60, feature_scale=32, stop_window=5, stop_patience=9, **settings)
    rng = torch.Generator().manual_seed(4)
    images = torch.rand(3, 3, 64, 64, dtype=torch.float64, generator=rng)
    expected = list(defense.trace(images, list("abc"), [20, 60]))
    stopped = {i: int(n) for read in expected for i, n in zip(read.positions, read.stopped)}
    compiled = native.library
    monkeypatch.setattr(native, "library", lambda narrow: None)
    kill_after(1)
    defense.batch = 2
    with pytest.raises(Killed), checkpoint.kept(tmp_path / "checkpoint", {}):
        list(defense.trace(images, list("abc"), [20, 60]))
    monkeypatch.setattr(native, "library", compiled)
    counted = []
    defense.progress = counted.append
    with checkpoint.kept(tmp_path / "checkpoint", {}):
        found = list(defense.trace(images, list("abc"), [20, 60]))
    assert steps_resumed(caplog.text) == [10, 10]
    assert counted[0] == 20
    assert any(stopped.values())
    for read in found:
        for i, n, image in zip(read.positions, read.stopped, read.images, strict=True):
            assert int(n) in (0, stopped[i])
            (same,) = (
                e.images[e.positions.index(i)]
                for e in expected
                if i in e.positions and e.iteration == read.iteration
            )
            assert (image - same).abs().max() < 1e-6
    assert {(i, r.iteration) for r in found for i in r.positions} == {
        (i, n) for i in range(3) for n in (20, 60)
    }


def test_early_stopping_goes_on_in_another_place():
    """A monitor's image as another's: another lane, another place in the ring of outputs."""
    outputs = torch.rand(30, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    outputs[10:15] = outputs[10] + 0.01 * outputs[10:15]  # the steadiest
    rule, shape, cpu = EarlyStopping(4, 9), torch.Size((1, 3, 4, 4)), torch.device("cpu")
    for moved in (2, 7, 12, 20):
        plain, other = (
            VarianceMonitor(rule, shape, cpu),
            VarianceMonitor(rule, torch.Size((2, 3, 4, 4)), cpu),
        )
        other.update(outputs[:2], outputs[:2])
        for i, output in enumerate(outputs):
            if i == moved:
                other.begin(1, outputs[0], None)
                other.resume(1, plain.save(0))
            plain.update(output[None], output[None])
            other.update(output.expand(2, -1, -1, -1), output.expand(2, -1, -1, -1))
        assert plain.stopped[0] and 13 <= plain.best_iteration[0] <= 15
        for name in VarianceMonitor.LANES:
            assert torch.allclose(getattr(plain, name)[0], getattr(other, name)[1])


def test_several_threads_are_kept_at_one_moment(tmp_path, caplog, kill_after):
    caplog.set_level("INFO")
    images = torch.rand(5, 3, 64, 64)
    defense = TandemDIP(
        first_iterations=(15,), iterations=30, feature_scale=32, first_width=0.125, batch=2
    )
    expected = defense(images)
    kill_after(1)  # the second one may fall where no fit is in progress
    whole = torch.zeros_like(images)
    for _ in range(2):
        try:
            with checkpoint.kept(tmp_path / "checkpoint", {}):
                part = checkpoint.part("images", {"images": whole})
                for read in defense.trace(images, None, [30]):
                    whole[read.positions] = read.images
        except Killed:
            whole = torch.zeros_like(images)
    assert torch.equal(whole, expected) and part.progress == {}
    assert 1 <= len(steps_resumed(caplog.text)) <= 2


# --- threats, which restore again and again ---


def threaten(folder: Path, defended: str, kind: str) -> tuple[np.ndarray, pd.DataFrame]:
    """Candidates of a threat on five images, judged with three seeds each; its two files, read."""
    weights, data = folder / "net", folder / "images"
    if not weights.exists():
        torch.manual_seed(0)
        net = SmallCNN(classes=3, width=4)
        write_weights(weights, net.state_dict(), classes.identity(CLASSIFIER))
        pixels = np.random.default_rng(1).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
        ids = tuple("abcde")
        write_images(data, ImageSet(pixels, np.arange(5) % 3, ids, ("x", "y", "z"), ids))
    tandem = {"iterations": 12, "first_iterations": [11], "first_width": 0.1}
    target, settings = {
        "DIP": ("dip:DIP", RESTORATION | {"iterations": 25}),
        "TandemDIP": ("dip:TandemDIP", RESTORATION | tandem),
        "DIPDefend": ("dipdefend:DIPDefend", {"iterations": 3, "widths": [2], "patch": 16}),
        "AverageBlur": ("controls:AverageBlur", {}),
    }[defended]
    defense = {"class": f"tandem_defense.defenses.{target}", "settings": settings}
    through, told = {
        "exact": ("through:Exact", {}),
        "bpda": ("through:BPDA", {}),
        "surrogate": ("surrogate:Surrogate", {"stand_in": "autoencoder", "pairs": 3, "epochs": 1}),
    }[kind]
    pgd = {"semantics": "fixed", "steps": 2, "restarts": 1, "step_size": 0.01}
    attack = {"class": "tandem_defense.attacks.iterative:PGD", "name": "pgd", "settings": pgd}
    entry = {"class": f"tandem_defense.threats.{through}", "settings": told}
    entry |= {"attack": attack, "epsilons": [0.02, 0.1]}
    net = (CLASSIFIER, str(weights))
    common = {"count": 5, "scatteritem": "1-of-1", "seed": 0, "threads": 1}
    images = {"test": str(data), "train": str(data)}
    candidates, rows = folder / "candidates", folder / "rows.parquet"
    if not candidates.exists():
        with checkpoint.kept(folder / "attacking", {"entry": entry}, [weights, data]):
            stage.attack(entry, net, (defense, None), images, str(candidates), **common)
    with checkpoint.kept(folder / "judging", {}, [candidates]):
        stage.judge(
            {"mine": (entry, str(candidates))},
            {"dataset": "photos", "classifier": "net", "defense": defended},
            net,
            (defense, None),
            str(data),
            str(rows),
            draws=3,
            dynamic=True,
            batch=3,
            **common,
        )
    return read_candidates(candidates).images, judgments.read(rows, "evaluate_threats")


@pytest.mark.parametrize("change", ["ids", "settings"])
def test_candidates_of_others_are_not_judged(tmp_path, change):
    threaten(tmp_path, "AverageBlur", "exact")
    file = tmp_path / "candidates"
    found = read_candidates(file)
    other = {"ids": found.ids[::-1], "settings": found.settings | {"seed": 1}}[change]
    write_candidates(file, replace(found, **{change: other}))
    expected = f"candidates of other {'images' if change == 'ids' else change}. Delete it and run"
    with pytest.raises(FileError, match=f"{expected}.* rule attack_defended makes it"):
        threaten(tmp_path, "AverageBlur", "exact")


@pytest.mark.parametrize(
    ("defended", "kind"),
    [
        ("AverageBlur", "exact"),
        ("DIP", "bpda"),
        ("TandemDIP", "bpda"),
        ("DIPDefend", "bpda"),
        ("DIP", "surrogate"),
    ],
)
def test_a_threat_that_is_killed_again_and_again_ends_with_the_same(
    tmp_path, often, monkeypatch, defended, kind
):
    """A restoration goes on in itself alone, and attacks on a device that takes other batches."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    write, saves, limit, parts = checkpoint.Checkpoint.save, 0, math.inf, []

    def save(self, *arguments):
        nonlocal saves
        write(self, *arguments)
        parts.append(len(self.parts))
        saves += 1
        if saves >= limit:
            raise Killed

    monkeypatch.setattr(checkpoint.Checkpoint, "save", save)
    candidates, rows = threaten(whole, defended, kind)
    if defended != "AverageBlur":  # a restoration answers every draw with other numbers
        images = rows.groupby(["threat", "epsilon", "image"])
        assert (images["draw"].nunique() == 3).all() and (images["loss"].nunique() > 1).all()
    limit, kills = 2, 0
    while True:
        monkeypatch.setitem(stage.PIXELS, "cpu", (3 - kills % 3) * 64 * 64)
        saves = 0
        try:
            again = threaten(broken, defended, kind)
            break
        except Killed:
            kills, limit = kills + 1, math.ceil(1.5 * limit)
    assert kills >= 2
    assert np.array_equal(again[0], candidates)
    pd.testing.assert_frame_equal(again[1], rows)
    assert max(parts) <= 8  # nothing is kept of what is done


def test_what_attacks_image_by_image_is_kept_after_each(tmp_path, monkeypatch):
    """An AutoAttack takes minutes for an image: a whole batch of them would be lost."""
    run, sizes = PGD.run, {None: [], 1: []}

    def counted(self, model, images, labels, seeds):
        sizes[self.BATCH].append(len(images))
        return run(self, model, images, labels, seeds)

    monkeypatch.setattr(PGD, "run", counted)
    for batch in sizes:
        folder = tmp_path / str(batch)
        folder.mkdir()
        monkeypatch.setattr(PGD, "BATCH", batch)
        threaten(folder, "AverageBlur", "exact")
    assert max(sizes[None]) > 1 and set(sizes[1]) == {1}
    assert sum(sizes[None]) == sum(sizes[1])


# --- training ---

IMAGES = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(2))
COLOR = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(3))
TRAININGS = {
    "funn": (
        lambda: FUNN(widths=(2, 3), hidden=4, noise_size=2),
        IMAGES,
        {"initialization_epochs": 2, "optimization_epochs": 2, "head_epochs": 2, "batch_size": 15},
    ),
    "autoencoder": (
        lambda: ClassicAutoencoder(widths=(2, 3), hidden=4),
        IMAGES,
        {"epochs": 3, "head_epochs": 3, "batch_size": 15},
    ),
    "magnet": (MagNet, IMAGES, {"epochs": 4, "batch_size": 15}),
    "comdefend": (
        lambda: ComDefend(compression=(4,), reconstruction=(4,), code=3),
        COLOR,
        {"epochs": 6, "batch_size": 9, "patch": 16},
    ),
    "hgd": (
        lambda: HGD(widths=(4, 4), forward_depths=(1, 1), backward_depths=(1,)),
        COLOR,
        {"crop_epochs": 2, "crops": 1, "side": 8, "epochs": 4, "batch_size": 9},
    ),
    "classifier": (
        lambda: SmallCNN(classes=10, width=4),
        COLOR,
        {"epochs": 6, "batch_size": 9, "noise": 0.1, "blur": 0.3},
    ),
    "dropout": (
        lambda: Torchvision(architecture="squeezenet1_1", classes=10),
        COLOR,
        {"epochs": 6, "batch_size": 9},
    ),
}


def train(name: str, folder: str) -> dict[str, torch.Tensor]:
    """A job that trains: its weights, also as a file."""
    make, images, settings = TRAININGS[name]
    module = make()
    if name == "hgd":
        torch.manual_seed(0)
        settings = settings | {"classifier": SmallCNN(classes=3, width=4).eval()}
    with checkpoint.kept(Path(folder, "checkpoint"), {"settings": str(settings)}):
        module.fit(images, torch.arange(len(images)) % 10, seed=0, **settings)
        write_weights(Path(folder, "weights"), module.state_dict(), {})
    return module.state_dict()


def goings_on(text: str) -> list[tuple[str, int, int]]:
    """(phase, epochs, batches) from which the log says that training went on."""
    found = re.findall(r"(\w+): going on after epoch (\d+), batch (\d+)", text)
    return [(name, int(epoch), int(batch)) for name, epoch, batch in found]


@pytest.mark.parametrize("saves", [2, 10, 16])
@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_that_was_broken_off_ends_with_the_same_weights(
    tmp_path, caplog, kill_after, name, saves
):
    """In every phase, in the middle of an epoch and at its end."""
    caplog.set_level("INFO")
    expected = train(name, str(tmp_path))
    assert not goings_on(caplog.text)
    (tmp_path / "weights").unlink()
    kill_after(saves)
    with pytest.raises(Killed):
        train(name, str(tmp_path))
    caplog.clear()
    found = train(name, str(tmp_path))
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    images, settings = TRAININGS[name][1:]
    batches = -(-len(images) // settings["batch_size"])
    done = sum(epoch * batches + batch for _, epoch, batch in goings_on(caplog.text))
    before = re.findall(r"attacks: going on after batch (\d+)", caplog.text)  # HGD's, each stage
    assert done + sum(map(int, before)) == saves
    assert not (tmp_path / "checkpoint").exists()


def test_a_killed_training_goes_on_to_the_same_bytes(tmp_path, caplog):
    caplog.set_level("INFO")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    for folder in (whole, resumed):
        folder.mkdir()
    train("funn", str(whole))
    kill(resumed, 8, "", "train", "funn", ".")
    assert not (resumed / "weights").exists()
    train("funn", str(resumed))
    assert goings_on(caplog.text) == [("initialization", 2, 0), ("optimization", 0, 2)]
    assert (resumed / "weights").read_bytes() == (whole / "weights").read_bytes()


def test_a_job_of_the_workflow_goes_on(root, tmp_path):
    """Snakemake deletes the killed job's outputs; the checkpoint is none of them."""
    checkout = copy_workflow(root, tmp_path)
    config = yaml.safe_load((root / "tests/small/config.yaml").read_text())
    config["experiments"]["tdips"]["dataset"] |= {"train": 140}
    del config["experiments"]["tdips"]["defenses"]["faulty"]
    (checkout / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    with (checkout / "scripts/tandem_defense/pipeline/checkpoint.py").open("a") as code:
        code.write(FAULT.format(folder=str(Path(killed.__file__).parent)))
    target = "results/classifiers/tdips/0/small.safetensors"
    done = snakemake(checkout, "--cores", "1", "--retries", "1", target, directory=".")
    assert done.returncode == 0, done.stderr
    assert "Trying to restart job" in done.stderr
    log = (checkout / "logs/train_classifier/tdips/0/small.log").read_text()
    assert goings_on(log) == [("classifier", 2, 1)]  # 140 images are three batches
    assert (checkout / target).exists()
    assert not list((checkout / "results/.checkpoints").iterdir())


FAULT = """
INTERVAL, SHARE = 0.0, float("inf")


def strike():
    import os

    if not Path("struck").exists():
        Path("struck").touch()
        os.kill(os.getpid(), 9)


import sys

sys.path.insert(0, {folder!r})
import killed

Checkpoint.save = killed.after(7, strike)
"""


# --- what a checkpoint belongs to, what it costs ---


def interrupted(path, job, inputs=(), kill=True) -> dict:
    """A job with one part that counts to five and is broken off at three; its progress."""
    with checkpoint.kept(path, job, inputs):
        counter = torch.zeros(2)
        part = checkpoint.part("counting", {"counter": counter}, steps=0).resume()
        start = dict(part.progress)
        while part.progress["steps"] < 5:
            counter += 1
            part.progress["steps"] += 1
            part.save()
            if kill and part.progress["steps"] == 3:
                raise Killed
        assert counter.tolist() == [5, 5]
    return start


def test_another_job_s_checkpoint_is_not_used(tmp_path, caplog):
    path, input = tmp_path / "c", tmp_path / "input"
    input.write_text("images")
    job = {"epsilon": 8 / 255, "code": ["a.py@1"]}
    for other, content in ((job | {"code": ["a.py@2"]}, "images"), (job, "others"), (job, None)):
        with pytest.raises(Killed):
            interrupted(path, job, [input])
        caplog.clear()
        if content is None:
            assert interrupted(path, other, [input], kill=False) == {"steps": 3}
            assert not caplog.text
        else:
            input.write_text(content)
            assert interrupted(path, other, [input], kill=False) == {"steps": 0}
            assert f"{path} is of other settings, code or inputs" in caplog.text
            input.write_text("images")
        assert not path.exists()


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "foreign"])
def test_a_damaged_checkpoint_is_named_and_the_job_starts_afresh(tmp_path, caplog, damage):
    path = tmp_path / "c"
    with pytest.raises(Killed):
        interrupted(path, {})
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-3] ^= 16
    path.write_bytes({"empty": b"", "cut": content[:-9], "foreign": b"PK"}.get(damage, content))
    assert interrupted(path, {}, kill=False) == {"steps": 0}
    assert f"checkpoint: {path} " in caplog.text and "the job starts afresh" in caplog.text


def test_a_disk_without_room_costs_the_checkpoint_and_not_the_job(tmp_path, caplog):
    caplog.set_level("INFO")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))  # bytes in a file
    try:
        interrupted(tmp_path / "c", {}, kill=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "checkpoint: failed, [Errno 27] File too large" in caplog.text
    assert not list(tmp_path.iterdir())


def test_short_jobs_pay_nothing(tmp_path):
    """Neither a file nor the hashing of inputs: this one does not exist."""
    with checkpoint.kept(tmp_path / "c", {}, [tmp_path / "none"]):
        part = checkpoint.part("p", {"x": torch.zeros(3)})
        assert not part.due()
        train_images, labels = COLOR, torch.arange(20) % 3
        SmallCNN(classes=3, width=4).fit(train_images, labels, seed=0, epochs=1)
        assert not (tmp_path / "c").exists()
    assert not list(tmp_path.iterdir())


def test_a_large_state_is_written_less_often(tmp_path, monkeypatch):
    """The next time is at least the writing's duration / SHARE away."""
    with checkpoint.kept(tmp_path / "c", {}):
        part = checkpoint.part("p", {"x": torch.zeros(1000)})
        monkeypatch.setattr(checkpoint, "SHARE", 1e-9)
        part.save()
        current = checkpoint._current.get()
        assert current.next - checkpoint.time.monotonic() > 2 * checkpoint.INTERVAL


def test_what_a_killed_writing_left_is_removed(tmp_path):
    torn = tmp_path / ".c.123.part"
    torn.write_bytes(b"half")
    with checkpoint.kept(tmp_path / "c", {}):
        assert not torn.exists()


def test_the_file_is_typed_and_holds_no_pickle(tmp_path):
    with pytest.raises(Killed):
        interrupted(tmp_path / "c", {})
    with safe_open(tmp_path / "c", "numpy") as file:
        _, content = json.loads(file.metadata()["tandem_defense"])
        assert json.loads(content)["metadata"]["parts"] == {"counting": {"steps": 3}}
        assert file.get_tensor("counting/counter").tolist() == [3, 3]


def test_without_a_checkpoint_nothing_is_due():
    part = checkpoint.part("p", {"x": torch.zeros(1)}, step=4)
    assert not part.due() and part.progress == {"step": 4}
