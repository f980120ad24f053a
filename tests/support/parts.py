"""What test_gpu.py has performance/gpu.py do in processes of their own."""

import os
import subprocess
import sys
import time
from pathlib import Path


def good(log: str) -> list[dict]:
    """Two rows that are as they should be."""
    note(log, "good")
    return [
        {"quantity": "speed", "value": 3.0, "limit": None},
        {"quantity": "error", "value": 0.5, "limit": 0.5},
    ]


def bad(log: str) -> list[dict]:
    """Rows beyond their limit."""
    note(log, "bad")
    return [{"quantity": "error", "value": value, "limit": 0.1} for value in (0.2, float("nan"))]


def crash(log: str) -> list[dict]:
    """As after an illegal memory access."""
    note(log, "crash")
    os._exit(3)


def slow(log: str) -> list[dict]:
    """Work by a program of its own, as Snakemake's or pytest's, whose number is in the log."""
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    note(log, str(program.pid))
    program.wait()
    return []


def further(log: str) -> list[dict]:
    """Work that goes on where it was: done in the second run."""
    begun = "further" in Path(log).read_text() if Path(log).exists() else False
    note(log, "further")
    if not begun:
        time.sleep(600)
    return [{"quantity": "speed", "value": 1.0, "limit": None}]


def note(log: str, name: str) -> None:
    """Say that a part was begun."""
    with open(log, "a", encoding="utf-8") as file:
        file.write(name + "\n")
