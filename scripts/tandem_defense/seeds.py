"""Seeds that depend on the run and the image, never on batch, chunk, worker or clock."""

from hashlib import sha256


def derive_seed(run_seed: int, *names: str) -> int:
    """A 63-bit seed for whatever `names` identify, e.g. ``derive_seed(0, image_id)``.

    A result may depend on the run's seed and the image's id alone.
    """
    text = "\0".join([str(int(run_seed)), *map(str, names)])
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> 1
