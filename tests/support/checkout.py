"""A copy of the workflow in which tests may run and change things."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

PARTS = ("rules", "schemas", "scripts", "resources", "report", "envs", "profiles", "demo")


def copy_workflow(root: Path, destination: Path) -> Path:
    """Everything Snakemake needs, without results."""
    (destination / "performance").mkdir(parents=True)
    for name in ("Snakefile", "config.yaml", "performance/restoration.csv"):
        shutil.copy(root / name, destination / name)
    ignore = shutil.ignore_patterns("results", "logs", "benchmarks", ".snakemake", "__pycache__")
    for name in PARTS:
        shutil.copytree(root / name, destination / name, ignore=ignore)
    return destination


def snakemake(
    checkout: Path, *arguments: str, directory: str | Path = "demo", **options
) -> subprocess.CompletedProcess:
    """Run Snakemake with the configuration in a directory, the demo's by default."""
    command = [sys.executable, "-m", "snakemake", "--directory", str(directory), *arguments]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, **options)


def planned(done: subprocess.CompletedProcess) -> dict[str, int]:
    """Jobs per rule of a dry run; empty when there is nothing to be done."""
    assert done.returncode == 0, done.stdout + done.stderr
    if "Nothing to be done" in done.stdout + done.stderr:
        return {}
    table = done.stdout.split("Job stats:")[1]
    counts = dict(re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE))
    return {rule: int(n) for rule, n in counts.items() if rule != "total"}


def unfinished(logs: Path) -> list[str]:
    """Jobs' logs below a folder, there are some, that do not end by saying that all is done."""
    all_of_it = re.compile(r"(\d+) of \1 [^(]+ \(100 %\), ended after .*\n\Z")
    texts = {str(log): log.read_text() for log in logs.rglob("*.log")}
    assert texts, f"{logs} holds no log"
    return [log for log, text in texts.items() if not all_of_it.search(text)]


def without_partitions(checkout: Path) -> Path:
    """A copy of the SLURM profile that names no partition, as docs/running.md says."""
    text = (checkout / "profiles/slurm/config.yaml").read_text()
    folder = checkout / "profiles/automatic"
    folder.mkdir()
    text, changes = re.subn(r"(?m)^  (cpu|gpu): {slurm_partition: \1}", r"  \1: {}", text)
    assert changes == 2, text
    (folder / "config.yaml").write_text(text)
    return folder
