"""What command-line arguments may be, and how the command says that one is wrong."""

import argparse
import re
from typing import NoReturn


class Running(RuntimeError):
    """The input was good, and the work failed: the message says why. Exit status 1."""


class Parser(argparse.ArgumentParser):
    """Leaves it to the command to say what is wrong, in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise ValueError."""
        raise ValueError(f"{message} (see {self.prog} --help)")


def number(text: str) -> int:
    """A whole number ≥ 0."""
    return _whole(text, 0)


def count(text: str) -> int:
    """A whole number ≥ 1."""
    return _whole(text, 1)


def size(text: str) -> int:
    """Pixels of a picture's side, a whole number ≥ 64, which is the least that is restored."""
    return _whole(text, 64)


def _whole(text: str, least: int) -> int:
    if not re.fullmatch(r"[+-]?\d+", text) or int(text) < least:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number >= {least}")
    return int(text)


def device_name(text: str) -> str:
    """A device as PyTorch names them, or auto."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected auto, cpu, cuda, cuda:1 or mps")
    return text
