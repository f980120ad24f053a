"""What command-line arguments may be."""

import argparse


def count(text: str) -> int:
    """A whole number ≥ 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {value}, expected a whole number ≥ 1")
    return value
