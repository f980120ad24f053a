"""Which images a job has, for whoever plans and whoever runs it."""


def chunk_positions(scatteritem: str, images: int) -> slice:
    """Positions of the images in chunk ``"2-of-8"``: contiguous, sizes differ by one at most."""
    part, parts = map(int, scatteritem.split("-of-"))
    return slice((part - 1) * images // parts, part * images // parts)
