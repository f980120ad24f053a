"""Pieces of the data's way that no other test runs alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tandem_defense.attacks import batches, iterative
from tandem_defense.attacks.iterative import BIM
from tandem_defense.classifiers.small import SmallCNN
from tandem_defense.datasets.photos import Photos
from tandem_defense.files.adversarial import read_adversarial
from tandem_defense.files.images import write_images
from tandem_defense.files.weights import read_weights, write_weights
from tandem_defense.pipeline import attack, checkpoint, classes, train
from tandem_defense.pipeline.chunks import chunk_positions
from tandem_defense.pipeline.entries import to_tensor
from tandem_defense.seeds import derive_seed


@pytest.mark.parametrize(("images", "chunks"), [(10, 3), (3, 3), (1000, 8), (1, 1)])
def test_chunks_cover_every_image_once(images, chunks):
    items = [f"{i}-of-{chunks}" for i in range(1, chunks + 1)]
    found = [list(range(images))[chunk_positions(item, images)] for item in items]
    assert sum(found, []) == list(range(images))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_seeds_are_those_of_the_run_and_the_image():
    assert derive_seed(0, "a") == derive_seed(0, "a")
    assert len({derive_seed(s, n) for s in (0, 1) for n in ("a", "b", "ab")}) == 6
    assert derive_seed(0, "a", "b") != derive_seed(0, "ab")
    assert 0 <= derive_seed(5, "x") < 2**63


def test_attacks_run_in_batches_that_fit_and_keep_what_is_done(monkeypatch):
    """One image at a time, three at a time, and halved where the memory ends: the same."""
    torch.manual_seed(0)
    net, images = SmallCNN(classes=3, width=4).eval(), torch.rand(7, 3, 16, 16)
    labels, seeds = net.predict(images), list(range(7))
    bim, cpu = BIM(semantics="corner", epsilon=0.3), torch.device("cpu")

    def run(at_once):
        monkeypatch.setitem(batches.PIXELS, "cpu", at_once * 256)
        return batches.in_batches(bim, net, images, labels, seeds, cpu)

    whole, alone, three = run(7), run(1), run(3)
    sizes = []

    def scarce(net, images, labels, seeds):
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return BIM(semantics="corner", epsilon=0.3)(net, images, labels, seeds=seeds)

    monkeypatch.setitem(batches.PIXELS, "cpu", 5 * 256)
    halved = batches.in_batches(scarce, net, images, labels, seeds, cpu)
    assert sizes == [5, 2, 2, 2, 1]
    for other in (alone, three, halved):
        assert whole.keys() == other.keys()
        for name, values in whole.items():
            assert abs(values.astype(float) - other[name].astype(float)).max() < 1e-5
    assert 0 < whole["success"].sum() < 7


@pytest.mark.parametrize("batch", [None, 2])
def test_an_attack_that_was_killed_goes_on_after_its_last_batch(tmp_path, monkeypatch, batch):
    """Even where the batches are of another size then; what is done is not attacked again."""
    monkeypatch.setattr(checkpoint, "INTERVAL", 0)  # with the next line: always due
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))
    torch.manual_seed(0)
    net, images = SmallCNN(classes=3, width=4).eval(), torch.rand(7, 3, 16, 16)
    labels, seeds, attacked = net.predict(images), list(range(7)), []

    class Counted(iterative.PGD):
        BATCH = batch

        def __call__(self, classifier, images, labels, seeds=None):
            if killed and attacked:
                raise KeyboardInterrupt
            attacked.extend(seeds)
            return super().__call__(classifier, images, labels, seeds)

    def run(at_once):
        monkeypatch.setitem(batches.PIXELS, "cpu", at_once * 256)
        tool = Counted(semantics="fixed", epsilon=0.1, steps=2)
        with checkpoint.kept(tmp_path / "attack", {}):
            return batches.in_batches(tool, net, images, labels, seeds, torch.device("cpu"))

    killed = False
    whole = run(3)
    assert attacked == seeds
    attacked.clear()
    killed = True
    with pytest.raises(KeyboardInterrupt):
        run(3)
    first = len(attacked)
    assert first == (batch or 3)
    killed = False
    going_on = run(1)
    assert attacked == seeds  # each once
    for name, values in whole.items():
        assert values.dtype == going_on[name].dtype and len(values) == 7
        np.testing.assert_array_equal(values[:first], going_on[name][:first])
        np.testing.assert_allclose(values, going_on[name], atol=1e-5)
    assert not (tmp_path / "attack").exists()


CLASSIFIER = {
    "class": "tandem_defense.classifiers.small:SmallCNN",
    "settings": {"classes": 7, "width": 4},
}
PGD = {"class": "tandem_defense.attacks.iterative:PGD"}
PGD["settings"] = {"semantics": "fixed", "epsilon": 0.1, "steps": 1}


@pytest.fixture
def attacked(tmp_path):
    """``attacked(item, seed)``: PGD from a random start on a chunk of five photographs."""
    data = Photos(test=7, tune=7, train=7, regions=4).load()["test"][:5]
    torch.manual_seed(0)
    net = SmallCNN(**CLASSIFIER["settings"]).eval()
    labels = net.predict(to_tensor(data.images)).numpy()  # all of them are attacked
    write_images(tmp_path / "images", replace(data, labels=labels))
    write_weights(tmp_path / "net", net.state_dict(), classes.identity(CLASSIFIER))

    def run(item, seed=0):
        output = tmp_path / f"{item}-{seed}"
        net = (CLASSIFIER, str(tmp_path / "net"))
        told = {"count": 5, "scatteritem": item, "seed": seed, "threads": 1}
        attack.attack(PGD, net, str(tmp_path / "images"), str(output), **told)
        return read_adversarial(output)

    return run


def test_no_image_depends_on_its_chunk(attacked):
    whole, parts = attacked("1-of-1"), [attacked(f"{i}-of-2") for i in (1, 2)]
    assert whole.ids == parts[0].ids + parts[1].ids
    assert np.abs(whole.images - np.concatenate([p.images for p in parts])).max() < 1e-6


def test_run_seeds_are_other_runs(attacked, tmp_path):
    """Attacks draw otherwise, and networks train otherwise."""
    first, second = attacked("1-of-1"), attacked("1-of-1", seed=1)
    assert (np.abs(first.images - second.images).max((1, 2, 3)) > 0.01).all()
    entry, weights = CLASSIFIER | {"training": {"epochs": 1}}, []
    for seed in (0, 1, 0):
        output = str(tmp_path / f"trained-{len(weights)}")
        train.train(entry, str(tmp_path / "images"), output, seed=seed, threads=1)
        weights.append(read_weights(output, classes.identity(entry)))
    assert all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
