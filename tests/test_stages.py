"""Pieces of the data's way that no other test runs alone."""

import pytest

from tandem_defense.seeds import derive_seed
from tandem_defense.stages import models


@pytest.mark.parametrize(("images", "chunks"), [(10, 3), (3, 3), (1000, 8), (1, 1)])
def test_chunks_cover_every_image_once(images, chunks):
    items = [f"{i}-of-{chunks}" for i in range(1, chunks + 1)]
    found = [list(range(images))[models.chunk_positions(item, images)] for item in items]
    assert sum(found, []) == list(range(images))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_seeds_are_those_of_the_run_and_the_image():
    assert derive_seed(0, "a") == derive_seed(0, "a")
    assert len({derive_seed(s, n) for s in (0, 1) for n in ("a", "b", "ab")}) == 6
    assert derive_seed(0, "a", "b") != derive_seed(0, "ab")
    assert 0 <= derive_seed(5, "x") < 2**63
