"""The profiles: what is limited on one machine, what is asked of a cluster."""

import os
import pty
import re
import shutil
import subprocess
import sys

import pytest
from checkout import copy_workflow, snakemake, without_partitions

# Ten jobs that ask for a GPU, five that do not; each notes when it runs.
JOBS = """
resource_scopes:
    gpu="local",

rule all:
    input: expand("{kind}{i}", kind=["gpu", "cpu"], i=range(5))

rule gpu:
    output: "gpu{i}"
    resources: gpu=1
    shell: "(date +%s.%N; echo $OMP_NUM_THREADS; sleep 0.5; date +%s.%N) >{output}"

use rule gpu as cpu with:
    output: "cpu{i}"
    threads: 2
    resources: gpu=0
"""


def most_at_once(spans: list[tuple[float, float]]) -> int:
    """How many of the spans of time overlap at most."""
    return max(sum(start <= moment < end for start, end in spans) for moment, _ in spans)


@pytest.mark.parametrize(("visible", "gpu_jobs"), [("0", 1), ("0,1, -1,3", 2), ("", 5), ("-1", 5)])
def test_one_job_per_gpu_and_one_thread_per_core(root, tmp_path, visible, gpu_jobs):
    """Without a GPU only the cores limit its jobs."""
    (tmp_path / "Snakefile").write_text(JOBS)
    shutil.copytree(root / "profiles", tmp_path / "profiles")
    command = [sys.executable, "-m", "snakemake", "--cores", "8"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": visible}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    spans, threads = {}, {"gpu": "1", "cpu": "2"}
    for kind in threads:
        for path in tmp_path.glob(f"{kind}[0-9]"):
            start, told, end = path.read_text().split()
            spans.setdefault(kind, []).append((float(start), float(end)))
            assert told == threads[kind], "numerical libraries start no more threads than cores"
    assert most_at_once(spans["gpu"]) <= gpu_jobs
    assert most_at_once(spans["gpu"] + 2 * spans["cpu"]) <= 8
    if gpu_jobs == 5:
        assert most_at_once(spans["gpu"]) > 2


@pytest.fixture(scope="module")
def checkout(root, tmp_path_factory):
    """A copy of the workflow."""
    return copy_workflow(root, tmp_path_factory.mktemp("profiles"))


def resources(checkout, *arguments: str) -> list[tuple[str, dict[str, str]]]:
    """Rule and resources of every job of a dry run."""
    done = snakemake(checkout, "-n", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    blocks = re.findall(r"(?m)^rule (\w+):\n(?:    .*\n)*?    resources: (.*)$", done.stdout)
    return [(rule, dict(r.split("=", 1) for r in found.split(", "))) for rule, found in blocks]


def test_rules_with_a_gpu_go_to_its_partition_and_no_others(checkout):
    jobs = resources(checkout, "--profile", "profiles/slurm")
    rules = {rule for rule, _ in jobs} - {"all"}
    assert {"prepare_images", "attack", "restore", "table1", "provenance"} <= rules
    for rule, found in jobs:
        wanted = "gpu" if found.get("gpu") == "1" else "cpu"
        assert found["slurm_partition"] == wanted, rule
        if rule != "all":
            assert int(found["mem_mb"]) >= 1000 and int(found["runtime"]) >= 10, rule


def test_the_other_way_to_ask_for_a_gpu(checkout):
    """The profile's commented line, for clusters that take --gres only, and an account."""
    profile = checkout / "profiles/slurm/config.yaml"
    text = profile.read_text()
    other = re.sub(r"(?m)^  gpu: .*$", "", text).replace("  # gpu: {", "  gpu: {")
    other = other.replace("everywhere: {}", "everywhere: {slurm_account: lab}")
    folder = checkout / "profiles/gres"
    folder.mkdir()
    (folder / "config.yaml").write_text(other)
    on_gpus = set()
    for rule, found in resources(checkout, "--profile", "profiles/gres"):
        assert found["slurm_account"] == "lab", rule
        if found["slurm_partition"] == "gpu":
            assert found["gres"] == "gpu:1" and found["gpu"] == "0", rule
            on_gpus.add(rule)
    assert {"attack", "restore", "train_classifier"} <= on_gpus


def test_partitions_may_be_left_to_what_jobs_ask_for(checkout):
    """The site's block without names of partitions: --slurm-partition-config chooses then."""
    jobs = resources(checkout, "--profile", str(without_partitions(checkout)))
    assert not any("slurm_partition" in found for _, found in jobs)
    assert {rule for rule, found in jobs if "gpu" in found} >= {"attack", "restore"}


def test_kubernetes_gets_what_it_needs_to_give_a_gpu(checkout):
    """Limits, and whose GPU it is."""
    jobs = resources(checkout, "--profile", "profiles/kubernetes")
    assert {"prepare_images", "attack", "restore", "table1"} <= {rule for rule, _ in jobs}
    for rule, found in jobs:
        assert found["scale"] == "0", rule
        assert found.get("gpu_manufacturer") == ("nvidia" if "gpu" in found else None), rule


def test_the_rich_logger_shows_a_bar_per_rule(checkout):
    """In a terminal, with a job of this workflow."""
    command = [sys.executable, "-m", "snakemake", "--directory", "demo", "--cores", "1"]
    command += ["results/images/funn/test.safetensors", "--logger", "rich"]
    screen, terminal = pty.openpty()
    process = subprocess.Popen(command, cwd=checkout, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    try:
        while part := os.read(screen, 4096):
            shown += part
    except OSError:  # how Linux says that nobody has the terminal open any more
        os.close(screen)
    assert process.wait() == 0, shown.decode()
    assert "prepare images" in shown.decode() and "100%" in shown.decode()
