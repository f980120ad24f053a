"""Tiles cover an image, and their blend is the image where nothing was changed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_defense.restoration.tiles import cut, join, starts


@settings(deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(2, 40), st.data())
def test_cut_and_joined_again_an_image_is_the_same(height, width, tile, data):
    overlap = data.draw(st.integers(0, tile // 2))
    image = torch.rand(3, height, width)
    tiles = cut(image, tile, overlap)
    assert tiles.shape[2:] == (min(tile, height), min(tile, width))
    assert torch.allclose(join(tiles, height, width, overlap), image, atol=1e-6)


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(2, 100), st.data())
def test_neighbors_overlap_and_the_ends_are_covered(length, tile, data):
    overlap = data.draw(st.integers(0, tile // 2))
    first = starts(length, tile, overlap)
    assert first[0] == 0 and first[-1] + tile >= length
    assert all(b - a <= tile - overlap for a, b in zip(first, first[1:], strict=False))


def test_a_seam_is_a_slope():
    """Two tiles of different brightness: no step between neighboring pixels is large."""
    tiles = torch.stack([torch.zeros(1, 64, 64), torch.ones(1, 64, 64)])
    image = join(tiles, 64, 112, 16)
    assert image[0, 0, 47] == 0 and image[0, 0, 64] == 1
    assert image[0].diff(dim=1).max() < 2 / 16


def test_too_much_overlap_is_refused():
    with pytest.raises(ValueError, match="allowed are 0 to 32, half of a tile"):
        cut(torch.rand(3, 100, 100), 64, 33)
