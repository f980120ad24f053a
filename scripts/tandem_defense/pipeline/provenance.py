"""What a result came from: versions, machine, seeds, configuration, revision."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("torch", "torchvision", "foolbox", "numpy", "pandas", "scikit-image", "scikit-learn")
PACKAGES += ("snakemake", "safetensors", "matplotlib", "seaborn")


ROOT = Path(__file__).parents[3]  # the checkout whose git revision counts


def collect(config: dict) -> dict:
    """A JSON-able record."""
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain")),
        "python": platform.python_version(),
        "packages": {name: installed for name in PACKAGES if (installed := _version(name))},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "seeds": {name: e["seeds"] for name, e in config["experiments"].items()},
        "configuration": config,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """What git prints, or None where the checkout is not a repository or git is absent."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
