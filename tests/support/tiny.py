"""tests/tiny/config.yaml: a configuration of both papers that runs in a minute."""

from pathlib import Path

import yaml

FILE = Path(__file__).parents[1] / "tiny/config.yaml"


def configuration() -> dict:
    """A fresh copy, fractions as texts."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))
