"""Several jobs on one machine: each has a GPU to itself, and no more threads than its rule's."""

import select
import subprocess
import sys

import pytest
import torch

from tandem_defense import device

CLAIM = """
import sys
sys.path.insert(0, "scripts")
from tandem_defense.device import claim
print("ready", flush=True)
print(claim(sys.argv[2:], sys.argv[1]), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def claims(root, tmp_path):
    """Starts processes that claim one of two GPUs and keep it until they are told to end."""
    started = []

    def start() -> subprocess.Popen:
        command = [sys.executable, "-c", CLAIM, str(tmp_path), "0", "GPU-b"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.append(subprocess.Popen(command, cwd=root, text=True, **pipes))
        assert started[-1].stdout.readline() == "ready\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_jobs_spread_over_gpus_and_wait_for_a_free_one(claims):
    first, second = claims(), claims()
    taken = {first.stdout.readline().strip(): first, second.stdout.readline().strip(): second}
    assert set(taken) == {"0", "GPU-b"}
    third = claims()
    assert not select.select([third.stdout], [], [], 2)[0], "no GPU is free"
    taken["GPU-b"].kill()  # without a chance to give back anything
    assert third.stdout.readline().strip() == "GPU-b"


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("2", ["2"]),
        ("0, 3", ["0", "3"]),
        ("", []),
        ("GPU-a", ["GPU-a"]),
        ("-1", []),
        ("1,-1,2", ["1"]),
    ],
)
def test_visible_gpus_are_those_of_the_environment(monkeypatch, variable, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert device.visible_gpus() == expected


def test_jobs_compute_in_ieee_float32():
    """PyTorch's own default lets convolutions on a GPU use TF32."""
    with device.tf32(True):
        device.prepare(threads=torch.get_num_threads(), device="cpu")
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32


def test_a_device_that_is_absent_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="no CUDA GPU: use cpu"):
        device.prepare(device="cuda")


def test_no_more_threads_than_cpus(monkeypatch, caplog):
    """Those of the process, which a scheduler may limit, not those of the machine."""
    before = torch.get_num_threads()
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {1, 5}, raising=False)
    try:
        device.prepare(2, "cpu")
        assert torch.get_num_threads() == 2 and not caplog.text
        device.prepare(64, "cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert "64 threads were asked for, 2 are used" in caplog.text


@pytest.mark.parametrize("version", [1, 2])
def test_files_that_were_read_leave_a_job_its_memory(tmp_path, monkeypatch, version):
    """A control group counts them as used, until somebody needs their place."""
    top = tmp_path / "fs"
    folder = top / "memory/job" if version == 1 else top / "job"
    folder.mkdir(parents=True)
    limit, used = ("limit_in_bytes", "usage_in_bytes") if version == 1 else ("max", "current")
    (folder / f"memory.{limit}").write_text("3000000\n")
    (folder / f"memory.{used}").write_text("2500000\n")
    cached = "total_inactive_file" if version == 1 else "inactive_file"
    (folder / "memory.stat").write_text(f"anon 5\n{cached} 2000000\n")
    group = tmp_path / "cgroup"
    group.write_text("4:memory:/job\n" if version == 1 else "0::/job\n")
    monkeypatch.setattr(device, "CONTROL", top)
    monkeypatch.setattr(device, "OWN_GROUPS", group)
    assert device.free_memory(torch.device("cpu")) == 2_500_000


def test_pytorch_s_own_word_for_no_memory_on_a_cpu():
    error = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")
    assert device.is_out_of_memory(error)
    assert not device.is_out_of_memory(RuntimeError("shapes do not match"))
