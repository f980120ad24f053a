"""Complaints about the machine: what a configuration needs beside the code is there.

Asked where Snakemake is started, not again in every job.
"""

import os
import shutil
from collections.abc import Iterator
from glob import glob
from pathlib import Path

from tandem_defense.datasets import listing
from tandem_defense.pipeline import demand, registry, schema
from tandem_defense.pipeline.artifacts import unlike
from tandem_defense.pipeline.check_entries import classes_of

MADE = "results/"  # what the pipeline makes
DOWNLOADED = f"{MADE}downloads/"  # datasets' folders that it fills
# A setting, its value, and the value to choose instead.
NEED_A_GPU = (("precision", "tf32", "float32"), ("engine", "triton", "fast"))


def machine(config: dict, cluster: bool, files: bool = True) -> Iterator[str]:
    """The folder of copies, the user's own files and pictures, and a GPU where one is needed.

    cluster : whether jobs run elsewhere, on machines that may have one
    files : whether the files of a run are in the working directory, and in no storage
    """
    if files:
        yield from _files(config)
    if "offline" in config and not Path(config["offline"]).is_dir():
        yield f"offline: found {config['offline']!r}, allowed is a folder that exists"
    for name, spec in config["experiments"].items():
        yield from _pictures(f"experiments.{name}", spec)
        for key, entry in spec["defenses"].items():
            for setting, needs, instead in NEED_A_GPU:
                if entry.get(setting) == needs and not cluster and not has_gpu():
                    yield (
                        f"experiments.{name}.defenses.{key}.{setting}: found {needs!r}, which needs"
                        f" an NVIDIA GPU, and this machine shows none: choose {instead}, or run it"
                        " on a cluster"
                    )


def has_gpu() -> bool:
    """Whether this machine shows a GPU of NVIDIA's to this process."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return False
    # On Linux, on Linux inside Windows, on Windows.
    return bool(glob("/dev/nvidia[0-9]*") or glob("/dev/dxg") or shutil.which("nvidia-smi.exe"))


def _files(config: dict) -> Iterator[str]:
    """The files that the configuration names are there.

    Snakemake misses an input only where it has to make something of it: in a finished run what was
    made of another file would stay.
    """
    named: dict[str, str] = {}
    for name, spec in config["experiments"].items():
        path, dataset = f"experiments.{name}", spec["dataset"]
        folder = str(dataset.get("folder", ""))
        if folder:
            parts = schema.constant(demand.target("dataset", dataset), "FILES") or ()
            named |= {f"{path}.dataset.folder ({part})": f"{folder}/{part}" for part in parts}
        for section in ("classifiers", "defenses"):
            for key, entry in spec[section].items():
                if entry.get("weights") and demand.own_weights(entry):
                    named[f"{path}.{section}.{key}.weights"] = entry["weights"]
    for section in ("tables", "figures"):
        for key, entry in config.get(section, {}).items():
            file = str(entry.get("published", ""))
            if file.endswith(".csv"):
                named[f"{section}.{key}.published"] = file
                if Path(file).exists() and (why := unlike(section, entry, Path(file))):
                    yield f"{section}.{key}.published: {why}"
    for path, file in named.items():
        if not Path(file).exists() and not file.startswith(MADE):
            yield f"{path}: found {file!r}, which is not there (paths begin where Snakemake runs)"


def _pictures(path: str, spec: dict) -> Iterator[str]:
    """Pictures of the user's own: there are enough, and a classifier has all their classes."""
    chosen = demand.target("dataset", spec["dataset"])
    if chosen != registry.DATASETS["folder"]:
        return
    settings = schema.defaults(chosen) | demand.settings("dataset", spec["dataset"])
    folder, count = settings["folder"], settings["classes"]
    wanted = {split: settings[split] for split in listing.SPLITS}
    try:
        pictures = listing.pictures(folder, settings["labels"])
        classes = listing.classes(folder, pictures, count)
        listing.drawn(folder, pictures, wanted, settings["split_seed"], count)
    except (OSError, ValueError) as error:
        yield f"{path}.dataset: {error}"
        return
    yield from classes_of(path, spec, len(classes))
