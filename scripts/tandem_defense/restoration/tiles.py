"""Cutting an image into overlapping tiles of one size, and blending it together again."""

import torch
from torch import Tensor


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along a side: they cover it and overlap by `overlap` pixels or more."""
    if tile >= length:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def cut(image: Tensor, tile: int, overlap: int) -> Tensor:
    """Tiles (N, C, h, w) of an image (C, H, W), row by row; h and w are `tile`, or H and W if
    these are smaller.

    Raises ValueError for an overlap of more than half a tile.
    """
    if not 0 <= 2 * overlap <= tile:
        raise ValueError(f"overlap: found {overlap}, allowed are 0 to {tile // 2}, half of a tile")
    height, width = image.shape[1:]
    h, w = min(tile, height), min(tile, width)
    return torch.stack(
        [
            image[:, top : top + h, left : left + w]
            for top in starts(height, tile, overlap)
            for left in starts(width, tile, overlap)
        ]
    )


def join(tiles: Tensor, height: int, width: int, overlap: int) -> Tensor:
    """The image (C, height, width) of the tiles that :func:`cut` makes.

    Where tiles overlap they are mixed, each with a weight that falls linearly towards its edge.
    """
    _, channels, h, w = tiles.shape
    weight = _ramp(h, overlap)[:, None] * _ramp(w, overlap)
    image = torch.zeros(channels, height, width, dtype=torch.float64)
    total = torch.zeros(height, width, dtype=torch.float64)
    tops, lefts = starts(height, h, overlap), starts(width, w, overlap)
    for number, tile in enumerate(tiles):
        top, left = tops[number // len(lefts)], lefts[number % len(lefts)]
        image[:, top : top + h, left : left + w] += weight * tile.cpu()
        total[top : top + h, left : left + w] += weight
    return (image / total).to(tiles.dtype)


def _ramp(length: int, overlap: int) -> Tensor:
    """Weights along a side of a tile: 1 inside, falling towards both edges, nowhere 0."""
    distance = torch.minimum(torch.arange(length), torch.arange(length).flip(0)) + 1
    return (distance.double() / (overlap + 1)).clamp(max=1)
