"""Pieces of the data's way that no other test runs alone."""

import pytest
import torch

from tandem_defense.attacks import batches
from tandem_defense.attacks.iterative import BIM
from tandem_defense.classifiers.small import SmallCNN
from tandem_defense.pipeline.chunks import chunk_positions
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
