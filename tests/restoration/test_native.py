"""The compiled engine: equal to the plain loop at any size, safe with memory, faults, compilers."""

import itertools
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from priors import PRIORS, apart, photos, run, settings, tasks

from tandem_defense import device
from tandem_defense.restoration import native, reference
from tandem_defense.restoration.reference import Task, dip1, dip2


@pytest.mark.parametrize("size", [(64, 64), (131, 67), (97, 170)])
def test_the_compiled_engine_equals_the_reference_at_any_size(size):
    """Winograd tiles, pixel blocks and odd poolings end where the image ends."""
    for architecture in (dip2(3, 32), dip2(3, 32, "affine"), dip1(0.25), dip1(0.25, "none")):
        work = tasks(architecture, 1, *size)
        expected = run(reference.fit, architecture, work, steps=(5,))
        assert apart(run(native.fit, architecture, work, steps=(5,)), expected) < 1e-9


def test_the_compiled_engine_equals_the_reference_at_the_paper_s_widths():
    """The wide layers are computed in several pieces."""
    for architecture in (dip2(3, 4), dip1()):
        work, steps = tasks(architecture, 1), (3, 10)
        exact = run(reference.fit, architecture, work, steps=steps)
        assert apart(run(native.fit, architecture, work, steps=steps), exact) < 1e-8


def test_float32_is_as_near_to_the_exact_result_as_the_reference_s():
    """Adam's first steps magnify rounding on some images: the median of several tells."""
    for architecture in (dip2(3, 4), dip1()):
        work = tasks(architecture, 8)
        exact = run(native.fit, architecture, work, steps=(3,))
        far = {}
        for fit in (reference.fit, native.fit):
            found = run(fit, architecture, work, steps=(3,), precision="float32")
            distances = [
                [(x - y).norm() for x, y in zip(found[key][:2], exact[key][:2], strict=True)]
                for key in exact
            ]
            far[fit] = torch.tensor(distances).median(0).values  # of the output, of the average
        assert (far[native.fit] <= 1.5 * far[reference.fit]).all()


def test_out_of_memory_on_the_cpu_goes_on_with_fewer_threads(monkeypatch):
    architecture = PRIORS["dip2"]
    work = tasks(architecture, 4)
    expected = run(native.fit, architecture, work, batch=1)
    fit, scarce = native.Network.fit, itertools.count()

    def first_call_fails(self, *arguments):
        if next(scarce) == 0:
            raise MemoryError
        return fit(self, *arguments)

    monkeypatch.setattr(native.Network, "fit", first_call_fails)
    assert apart(run(native.fit, architecture, work, batch=2), expected) == 0


def test_one_image_too_large_for_the_memory_is_an_error():
    """A child process with a limit: the error is MemoryError, not a crash."""
    code = (
        "import resource, torch\n"
        "from tandem_defense.restoration import native\n"
        "from tandem_defense.restoration.reference import FitSettings, Task, dip2\n"
        "native.library()\n"
        "task = Task(torch.zeros(3, 3000, 3000), 0)\n"
        "limit = 1 << 30\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + limit, used + limit))\n"
        "try:\n"
        "    settings = FitSettings(readouts=(1,), learning_rate=1e-3, smoothing=0)\n"
        "    list(native.fit(dip2(3, 4), [task], settings))\n"
        "except MemoryError:\n"
        "    print('MemoryError')\n"
    )
    actual = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert actual.stdout.strip() == "MemoryError", actual.stderr


def test_a_reader_that_leaves_stops_the_threads():
    before = threading.active_count()
    work = tasks(PRIORS["dip2"], 4)
    reads = native.fit(PRIORS["dip2"], work, settings((10, 10_000)))
    next(reads)
    reads.close()
    assert threading.active_count() == before


def test_an_error_in_a_thread_reaches_the_caller():
    bad = Task(photos(1)[0], 0, torch.zeros(1))  # an input of the wrong size
    with pytest.raises(ValueError, match=r"expected an input \(32, 65, 72\).*\(1,\)"):
        run(native.fit, PRIORS["dip2"], [bad])


def test_a_compiler_that_fails_is_quoted(monkeypatch, caplog, tmp_path):
    fake = tmp_path / "c++"
    fake.write_text("#!/bin/sh\necho 'cannot compile: out of paper' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    monkeypatch.setenv("TANDEM_DEFENSE_CACHE", str(tmp_path / "cache"))
    native.library.cache_clear()
    try:
        assert native.library() is None
    finally:
        native.library.cache_clear()
    assert "out of paper" in caplog.text


def test_the_code_is_compiled_once_and_kept(monkeypatch, tmp_path):
    """A second process takes the file; another source makes another one."""
    monkeypatch.setenv("TANDEM_DEFENSE_CACHE", str(tmp_path))
    source = tmp_path / "small.cpp"
    text = Path(native.SOURCE).read_text(encoding="utf-8")
    source.write_text(text.replace("INTERFACE(double, float64)", "INTERFACE(float, float64)"))
    monkeypatch.setattr(native, "SOURCE", source)
    monkeypatch.setattr(native, "FLAGS", [f for f in native.FLAGS if f != "-O3"] + ["-O0"])
    made = []
    for _ in range(2):
        native.library.cache_clear()
        assert native.library() is not None
        made.append([(p.name, p.stat().st_mtime_ns) for p in tmp_path.glob("*.so")])
    source.write_text(source.read_text() + "\n// another\n")
    native.library.cache_clear()
    assert native.library() is not None
    native.library.cache_clear()
    assert made[0] == made[1] and len(made[0]) == 1
    assert len(list(tmp_path.glob("*.so"))) == 2


FIT = """
import logging, sys, torch
logging.basicConfig(format="%(message)s", level="INFO", stream=sys.stdout)
from tandem_defense import device
from tandem_defense.restoration import native
from tandem_defense.restoration.reference import FitSettings, Task, dip2
{first}
task = Task(torch.full((3, 64, 64), 0.25), 0)
settings = FitSettings(readouts=(1,), learning_rate=1e-3, smoothing=0)
prior = dip2(3, 32)
assert native.library(native.narrow(prior)) is not None
for read in native.fit(prior, [task], settings):
    print("fitted", len(read.positions))
"""


def fitted(first: str = "", **environment: str) -> str:
    """What a process of its own logs while it fits an image: a crash fails here."""
    done = subprocess.run(
        [sys.executable, "-c", FIT.format(first=first)],
        capture_output=True,
        text=True,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        | environment,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert done.stdout.endswith("fitted 1\n")
    return done.stdout


@pytest.mark.parametrize("fused", [False, True])
def test_narrow_vectors_are_for_maps_that_wide_ones_would_pad(monkeypatch, fused):
    """With AVX-512 a network of 8, 16, … channels has vectors of 8 numbers."""
    flags = "flags : avx2 avx512f avx512vl" if fused else "flags : avx2"
    monkeypatch.setattr(native, "_processor", lambda: flags)
    monkeypatch.setattr(native, "_kept", lambda folder, name: name)
    monkeypatch.setattr(native.ctypes, "CDLL", lambda name: name)
    monkeypatch.setattr(native, "_declared", lambda name: name)
    native.library.cache_clear()
    try:
        names = [native.library(native.narrow(p)) for p in (dip2(32, 8), dip2(32, 4), dip1())]
    finally:
        native.library.cache_clear()
    assert names[1] == names[2]
    assert (names[0] != names[1]) == fused


def test_a_damaged_library_is_compiled_again(tmp_path):
    """Truncated (a bus error if loaded) or with other bytes in it; a whole one is kept."""

    def said() -> str:
        quick = "native.FLAGS[native.FLAGS.index('-O3')] = '-O0'"
        return fitted(quick, TANDEM_DEFENSE_CACHE=str(tmp_path))

    assert "compiling" in said()
    (library,) = tmp_path.glob("*.so")
    whole = library.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:5000] + bytes(3000) + whole[8000:]):
        library.unlink()  # a running process may have it open
        library.write_bytes(damaged)
        again = said()
        assert f"{library} is damaged" in again and "compiling" in again
        assert library.read_bytes() == whole
    assert "compiling" not in said()
    assert list(tmp_path.glob("*")) == [library]


@pytest.mark.parametrize(
    ("first", "asked"),
    [("device.prepare(100_000, 'cpu')", 100_000), ("torch.set_num_threads(500)", 500)],
)
def test_more_threads_than_cpus_are_not_taken(first, asked):
    assert f"{asked} threads were asked for, {device.cpus()} are used" in fitted(first)


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_the_compiled_code_is_clean_under_sanitizers(sanitizers, tmp_path):
    """No read or write outside a buffer, at sizes whose last tiles and blocks are partial, and none
    of a value that another thread is writing.
    """
    program = tmp_path / "main.cpp"
    program.write_text(
        f'#include "{native.SOURCE}"\n'
        "int main() {\n"
        "    int widths[] = {3, 5, 20, 40, 17, 33}, first[] = {8, 9, 16, 17, 20, 8, 8, 4};\n"
        "    for (int kind : {0, 1}) for (int norm : {0, 1, 2}) {\n"
        "        int inputs = kind ? 3 : 32;\n"
        "        auto* net = build<float>(67, 130, inputs, kind ? widths : first, kind, norm);\n"
        "        std::vector<float> p(1 << 20, 0.01f), z(inputs * 67 * 130, 0.5f);\n"
        "        std::vector<float> t(3 * 67 * 130, 0.25f), a(t.size()), b(t.size());\n"
        "        std::vector<float> w(67 * 130, 1.25f);\n"
        "        net->start(p.data(), z.data(), t.data(), norm ? w.data() : nullptr);\n"
        "        if (!(fit(net, 3, 2, 1e-3, 0.9, a.data(), b.data()) >= 0)) return 1;\n"
        "        delete net;\n"
        "    }\n"
        "}\n"
    )
    flags = ["-std=c++17", "-O1", "-g", "-march=native", "-pthread", f"-fsanitize={sanitizers}"]
    made = tmp_path / "main"
    build = subprocess.run(
        ["g++", *flags, "-fno-sanitize-recover=all", "-o", str(made), str(program)],
        capture_output=True,
        text=True,
    )
    if build.returncode and "sanitize" in build.stderr + build.stdout:
        pytest.skip("the compiler has no sanitizers")
    assert build.returncode == 0, build.stderr
    done = subprocess.run([str(made)], capture_output=True, text=True)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("the thread sanitizer does not work on this kernel")
    assert done.returncode == 0, done.stderr[:3000]


def test_nothing_of_an_image_reaches_the_next_one_of_its_thread():
    """Not even NaN, and not a bit of the average."""
    architecture = PRIORS["dip2"]
    first, second = tasks(architecture, 2)
    broken = replace(first, target=torch.full_like(first.target, torch.nan))
    for earlier in (first, broken):
        both = run(native.fit, architecture, [earlier, second], steps=(1, 5), batch=1)
        alone = run(native.fit, architecture, [second], steps=(1, 5), batch=1)
        expected = {(1, n): alone[0, n] for n in (1, 5)}
        assert apart({key: both[key] for key in expected}, expected) == 0
