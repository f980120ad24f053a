"""The SLURM profile on a real cluster, and what happens when things go wrong.

`make test-slurm` runs these; they write what they saw into docs/reliability.md.
"""

import contextlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from checkout import copy_workflow, planned, without_partitions
from cluster import Cluster, command, missing, wait_for

pytestmark = pytest.mark.slurm

CHUNKS = "results/predictions/tdips/0/small/feed_forward/{}-of-3.parquet"
TABLES = ("table1.csv", "table1.md", "table2.csv", "table2.md")
TARGETS = ("results/tables/table1.csv", "results/tables/table2.csv")
LOST = {CHUNKS.format(chunk) for chunk in (1, 2)}
STATUS = r"SLURM status is: '\w+'"
HEADER = """| fault | what Snakemake says | what recovers | done again | minutes |
|---|---|---|---|---|
"""


@dataclass
class Run:
    """The workflow in a folder, on the cluster or here."""

    checkout: Path
    folder: Path
    arguments: tuple[str, ...]

    def start(self, *more: str) -> subprocess.Popen:
        """Snakemake in the background; everything it says is in `log`."""
        program = [sys.executable, "-m", "snakemake", "--directory", str(self.folder)]
        with self.log.open("w") as file:
            return subprocess.Popen(
                [*program, *self.arguments, *more],
                cwd=self.checkout,
                stdout=file,
                stderr=file,
                # A shell that puts these tests into the background has SIGINT ignored below it.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def __call__(self, *more: str) -> subprocess.CompletedProcess:
        """Snakemake until it ends."""
        process = self.start(*more)
        code = process.wait()
        return subprocess.CompletedProcess(process.args, code, self.said(), "")

    @property
    def log(self) -> Path:
        """A file beside the folder, which may be full."""
        return self.folder.with_name(f"{self.folder.name}.log")

    def said(self) -> str:
        """What Snakemake has printed so far."""
        return self.log.read_text()

    def finished(self) -> int:
        """How many jobs Snakemake knows to be done."""
        return self.said().count("Finished jobid")

    def tables(self) -> dict[str, bytes]:
        """The contents of both tables."""
        return {name: (self.folder / "results/tables" / name).read_bytes() for name in TABLES}

    def files(self) -> dict[str, int]:
        """Every result with the time it was written."""
        results = self.folder / "results"
        found = (path for path in results.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.stat().st_mtime_ns for path in found}


def written(before: dict[str, int], after: dict[str, int], pattern: str = "") -> set[str]:
    """Results that are new or were written again."""
    return {name for name in after if pattern in name and after[name] != before.get(name)}


@pytest.fixture(scope="module")
def cluster():
    """SLURM with two nodes."""
    if lacking := missing():
        pytest.fail(f"this machine lacks {', '.join(lacking)}: see tests/support/cluster.py")
    with Cluster() as running:
        yield running


@pytest.fixture(scope="module")
def checkout(root, tmp_path_factory):
    """A copy of the workflow."""
    return copy_workflow(root, tmp_path_factory.mktemp("checkout"))


def working_directory(root: Path, folder: Path) -> Path:
    """A folder with the small configuration, and the defense `faulty` that it names."""
    folder.mkdir(exist_ok=True)
    shutil.copy(root / "tests/small/config.yaml", folder)
    shutil.copy(root / "tests/support/faulty.py", folder)
    return folder


@pytest.fixture(scope="module")
def local(root, checkout, tmp_path_factory):
    """The finished run on this machine alone."""
    folder = working_directory(root, tmp_path_factory.mktemp("local") / "work")
    run = Run(checkout, folder, ("--cores", "2"))
    done = run(*TARGETS)
    assert done.returncode == 0, done.stdout
    return run


@pytest.fixture(scope="module")
def submitted(root, checkout, cluster, tmp_path_factory):
    """The finished run through the profile, on a disk of 200 MB."""
    folder = working_directory(root, tmp_path_factory.mktemp("cluster") / "work")
    shutil.rmtree(folder)
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", folder], check=True)
    try:
        working_directory(root, folder)
        profile = ("--profile", "profiles/slurm", "--jobs", "2")
        # Small jobs, looked at soon: the only setting that differs from the profile's.
        soon = ("--slurm-init-seconds-before-status-checks", "14")
        run = Run(checkout, folder, profile + soon)
        done = run("all")
        assert done.returncode == 0, done.stdout
        yield run
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@dataclass
class Row:
    """One fault on the page."""

    run: Run
    pattern: str
    says: str = ""
    again: str = ""

    def read(self) -> None:
        """Quote what Snakemake has said."""
        self.says = self.says or quoted(self.pattern, self.run.said())


@pytest.fixture(scope="module")
def reliability(root, request):
    """Collects a row per fault, and writes them into the page when every test has passed."""
    rows = []

    @contextlib.contextmanager
    def fault(name: str, run: Run, pattern: str, recovers: str):
        row, started = Row(run, pattern), time.monotonic()
        yield row
        row.read()
        minutes = (time.monotonic() - started) / 60
        rows.append(f"| {name} | {row.says} | {recovers} | {row.again} | {minutes:.1f} |")

    yield fault
    faults = sum("reliability" in item.fixturenames for item in request.session.items)
    if len(rows) == faults == 8:
        page = root / "docs/reliability.md"
        before, _ = page.read_text().split(HEADER)
        page.write_text(before + HEADER + "\n".join(rows) + "\n")


def quoted(pattern: str, said: str) -> str:
    """What matches the pattern first, as the page quotes it."""
    found = re.search(pattern, said)
    assert found, f"Snakemake never said {pattern!r}:\n{said}"
    return f"`{found[0].strip()}`"


def submissions(run: Run) -> list[str]:
    """SLURM's ids of the jobs that were submitted, in order."""
    return re.findall(r"SLURM jobid (\d+)", run.said())


def ask_for(run: Run, fault: str) -> None:
    """Lose two chunks; the first job that makes one of them takes the fault."""
    for old in [*run.folder.glob("taken-*"), *run.folder.glob("faults/*")]:
        old.unlink()
    (run.folder / "faults").mkdir(exist_ok=True)
    (run.folder / "faults" / fault).touch()
    lose_chunks(run)


def lose_chunks(run: Run) -> None:
    """Delete the predictions of two of the three chunks, and what was made of them."""
    for file in (*LOST, "results/predictions/tdips.parquet", TARGETS[0]):
        (run.folder / file).unlink()


def wait_for_the_other_chunk(run: Run) -> None:
    """Until one chunk's job hangs and Snakemake knows that the other's is done."""
    hangs = (run.folder / "taken-hang").exists
    wait_for(lambda: hangs() and run.finished() == 1, "one of two chunks", 240)


def check_complete(run: Run, local: Run) -> None:
    """Both tables equal the local run's byte for byte, and a plain rerun has nothing to do."""
    assert run.tables() == local.tables()
    said = run.said()
    assert planned(run("-n", *TARGETS)) == {}
    run.log.write_text(said)


def survive(run: Run, local: Run, fault: str, meanwhile: Callable | None = None) -> None:
    """Snakemake overcomes a fault by itself; `meanwhile` strikes when one chunk's job hangs."""
    ask_for(run, fault)
    before = run.files()
    process = run.start(*TARGETS)
    if meanwhile:
        wait_for_the_other_chunk(run)
        meanwhile()
    assert process.wait() == 0, run.said()
    assert written(before, run.files(), "/tdips/") == LOST, "only the lost chunks are made again"
    assert run.said().count("Trying to restart job") == 1, run.said()
    assert len(submissions(run)) == 5, "two chunks, one of them twice, one gathering, one table"
    check_complete(run, local)


def resume(run: Run, local: Run) -> None:
    """A plain rerun of a run that a fault ended after one of two lost chunks."""
    before = run.files()
    missing = {chunk for chunk in LOST if chunk not in before}
    assert len(missing) == 1, "one chunk was finished before the fault"
    done = run(*TARGETS)
    assert done.returncode == 0, done.stdout
    assert written(before, run.files(), "/tdips/") == missing, "only the lost chunk is made again"
    assert len(submissions(run)) == 3, "the chunk, one gathering, one table"
    check_complete(run, local)


def test_a_cluster_gives_the_tables_of_one_machine(local, submitted):
    assert submitted.tables() == local.tables()
    for figure in ("figure3", "figure6", "figure7", "figure8", "funn_figure2"):
        assert (submitted.folder / f"results/figures/{figure}.pdf").stat().st_size > 1000
    assert planned(submitted("-n")) == {}


def show(job: str, key: str) -> str:
    """What SLURM knows of a job under `key`; empty where it knows nothing."""
    found = re.search(rf"\b{key}=(\S+)", command("scontrol", "show", "job", job))
    return found[1] if found else ""


def test_jobs_ask_for_what_their_rules_say(submitted, local, tmp_path):
    """A GPU by --gpus, or by --gres where the profile's other line is chosen."""
    profile = submitted.checkout / "profiles/slurm/config.yaml"
    text = profile.read_text()
    other = re.sub(r"(?m)^  gpu: .*$", "", text).replace("  # gpu: {", "  gpu: {")
    assert other.count("  gpu: {") == 1 and "gres" in other
    for content, key in ((text, "TresPerJob"), (other, "TresPerNode")):
        profile.write_text(content)
        try:
            lose_chunks(submitted)
            done = submitted(*TARGETS)
        finally:
            profile.write_text(text)
        assert done.returncode == 0, done.stdout
        chunk, *_, table = submissions(submitted)
        assert show(chunk, key) == "gres:gpu:1" and show(chunk, "Partition") == "gpu"
        assert show(chunk, "MinMemoryNode") == "4000M" and show(chunk, "TimeLimit") == "01:00:00"
        assert show(table, key) == "" and show(table, "Partition") == "cpu"
        check_complete(submitted, local)


def test_partitions_are_found_and_nodes_left_out(root, checkout, cluster, tmp_path):
    """Without accounting, of which this cluster has none: GPUs are added to the file by hand."""
    folder, file = working_directory(root, tmp_path / "work"), tmp_path / "partitions.yaml"
    generate = Path(sys.executable).with_name("generate-slurm-partition-config")
    subprocess.run([generate, "-o", file], check=True)
    limits = yaml.safe_load(file.read_text())["partitions"]
    assert set(limits) == {"cpu", "gpu"} and limits["gpu"].get("max_gpu") is None
    limits["gpu"]["max_gpu"] = 2
    file.write_text(yaml.safe_dump({"partitions": limits}))
    profile = (
        "--profile",
        str(without_partitions(checkout)),
        "--slurm-partition-config",
        str(file),
    )
    run = Run(checkout, folder, (*profile, "--slurm-init-seconds-before-status-checks", "14"))
    for target, partition, more in (
        ("results/images/funn/train.safetensors", "cpu", ()),
        (
            "results/classifiers/funn/0/classic.safetensors",
            "gpu",
            ("--slurm-exclude-failed-nodes", "n1", "--slurm-efficiency-report"),
        ),
    ):
        done = run(target, *more)
        assert done.returncode == 0, done.stdout
        (job,) = submissions(run)
        assert show(job, "Partition") == partition
        assert show(job, "ExcNodeList") == ("n1" if more else "(null)")
    assert "Failed to retrieve job data" in run.said()


def test_a_job_that_exits_1(submitted, local, reliability):
    with reliability("a job exits 1", submitted, STATUS, "the retry") as page:
        survive(submitted, local, "error")
        page.again = "1 chunk"
    log = "logs/evaluate/tdips/0/small/{}-of-3.log"
    assert any((submitted.folder / log.format(chunk)).exists() for chunk in (1, 2))


def test_a_job_that_exceeds_its_memory(submitted, local, reliability):
    with reliability("a job exceeds its memory", submitted, STATUS, "the retry") as page:
        survive(submitted, local, "memory")
        page.again = "1 chunk, with twice the memory"
    assert "8000M" in [show(job, "MinMemoryNode") for job in submissions(submitted)]


def test_a_job_that_exceeds_its_time(submitted, local, reliability, cluster):
    def shorten() -> None:
        (job,) = cluster.jobs()
        command("scontrol", "update", f"jobid={job}", "TimeLimit=1")

    with reliability("a job exceeds its time", submitted, STATUS, "the retry") as page:
        survive(submitted, local, "hang", shorten)
        page.again = "1 chunk, with twice the time"
    assert "02:00:00" in [show(job, "TimeLimit") for job in submissions(submitted)]


def test_a_job_that_somebody_cancels(submitted, local, reliability, cluster):
    with reliability("`scancel` of a running job", submitted, STATUS, "the retry") as page:
        survive(submitted, local, "hang", lambda: command("scancel", *cluster.jobs()))
        page.again = "1 chunk"


def test_a_node_that_goes_down(submitted, local, reliability, cluster):
    def crash() -> None:
        cluster.crash_node("n2")
        wait_for(lambda: "Trying to restart" in submitted.said(), "the retry", 240)
        cluster.start_node("n2")

    how = "the retry, when a node is there"
    with reliability("a node goes down", submitted, STATUS, how) as page:
        survive(submitted, local, "hang", crash)
        page.again = "1 chunk"


def test_an_interrupted_main_process(submitted, local, reliability, cluster):
    how = "a plain rerun; the jobs were cancelled"
    with reliability(
        "SIGINT (Ctrl-C) of Snakemake", submitted, "Terminating processes.*", how
    ) as page:
        ask_for(submitted, "hang")
        process = submitted.start(*TARGETS)
        wait_for_the_other_chunk(submitted)
        process.send_signal(signal.SIGINT)
        assert process.wait() != 0
        wait_for(lambda: not cluster.jobs(), "the jobs to be cancelled")
        page.read()
        resume(submitted, local)
        page.again = "1 chunk"


def test_a_killed_main_process(submitted, local, reliability, cluster):
    how = "`scancel` of its jobs, `snakemake --unlock`, a plain rerun"
    with reliability("SIGKILL of Snakemake", submitted, "Directory cannot be locked", how) as page:
        ask_for(submitted, "hang")
        process = submitted.start(*TARGETS)
        wait_for_the_other_chunk(submitted)
        process.kill()
        process.wait()
        assert len(cluster.jobs()) == 1, "its jobs go on without it"
        assert submitted(*TARGETS).returncode != 0
        page.read()
        cluster.cancel_all()
        assert submitted("--unlock").returncode == 0
        resume(submitted, local)
        page.again = "1 chunk"


def test_a_full_disk(submitted, local, reliability, cluster):
    # Whoever writes first says it: Snakemake, or the job, whose log is on this disk too.
    pattern = rf"No space left on device|{STATUS}"
    how = "space, then a plain rerun"
    with reliability("the submit host's disk is full", submitted, pattern, how) as page:
        lose_chunks(submitted)
        process = submitted.start("--jobs", "1", "--retries", "0", *TARGETS)
        wait_for(lambda: submitted.finished() == 1, "one of two chunks", 240)
        filler = submitted.folder / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(2**16))
        assert shutil.disk_usage(submitted.folder).free == 0
        assert process.wait() != 0, submitted.said()
        page.read()
        filler.unlink()
        resume(submitted, local)
        page.again = "1 chunk"
