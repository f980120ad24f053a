"""The wheel and the source distribution: what they hold, and that the wheel needs no compiler."""

import platform
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from priors import apart, run, tasks

from tandem_defense.restoration import native, reference
from tandem_defense.restoration.reference import dip1, dip2

LINUX = sys.platform == "linux" and platform.machine() == "x86_64"
BUILD = "import sys; from scikit_build_core.build import {0}; print({0}(sys.argv[1]))"
V3 = native.LEVELS["v2"] + " " + native.LEVELS["v3"]


def build(what, root, folder) -> Path:
    """The file that `what`, a function of the build backend, makes of the checkout."""
    command = [sys.executable, "-c", BUILD.format(what), str(folder)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory):
    """The wheel, as `pip install .` builds it."""
    return build("build_wheel", root, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def site(wheel):
    """A folder with the wheel's files."""
    with zipfile.ZipFile(wheel) as content:
        content.extractall(wheel.parent / "site")
    return wheel.parent / "site"


@pytest.fixture
def engine(monkeypatch):
    """``engine(path)`` makes the compiled code that of a file."""

    def choose(path):
        monkeypatch.setattr(native, "shipped", lambda narrow=False: path)
        native.library.cache_clear()

    yield choose
    native.library.cache_clear()


def test_the_wheel_holds_the_package_the_command_and_the_engine(wheel):
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
        (entries,) = (n for n in names if n.endswith("entry_points.txt"))
        assert "tandem-defense" in content.read(entries).decode()
    assert "tandem_defense/defenses/dip.py" in names
    assert "tandem_defense/restoration/cpu.cpp" in names
    assert not [n for n in names if n.startswith(("scripts", "tests")) or "__pycache__" in n]
    engines = [n for n in names if n.endswith(".so")]
    levels = [f"tandem_defense/restoration/cpu-x86-64-{level}.so" for level in native.LEVELS]
    assert sorted(engines) == (sorted(levels) if LINUX else [])
    assert "-py3-none-" in wheel.name


@pytest.mark.skipif(not LINUX, reason="the wheel ships the engine for Linux on x86-64")
def test_a_picture_is_restored_without_a_compiler(site, tmp_path):
    """From elsewhere, with nothing on PATH: the engine is the wheel's, and nothing is compiled."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "in.png")
    program = (
        "import sys; from tandem_defense.cli import main; from tandem_defense.restoration import"
        " native; print(native.compiler(), native.shipped().parents[2]); sys.exit(main())"
    )
    quick = "--iterations 2 --first-iterations 1 --feature-scale 32".split()
    environment = {"PYTHONPATH": str(site), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, "restore", "in.png", "-o", "out.png", *quick],
        cwd=tmp_path,
        env=environment | {"TANDEM_DEFENSE_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["None", str(site)] and "compiler" not in done.stderr
    assert not (tmp_path / "cache").exists()
    assert Image.open(tmp_path / "out.png").size == (64, 64)


@pytest.mark.skipif(not LINUX, reason="the wheel ships the engine for Linux on x86-64")
@pytest.mark.parametrize("level", native.LEVELS)
def test_every_level_equals_the_reference(site, engine, level):
    needed = native.LEVELS[level].split()
    if not set(native._processor().split()).issuperset(needed):
        pytest.skip(f"this processor is below x86-64-{level}")
    engine(site / f"tandem_defense/restoration/cpu-x86-64-{level}.so")
    for architecture in (dip2(3, 32), dip1(0.25)):
        work = tasks(architecture, 1)
        expected = run(reference.fit, architecture, work, steps=(5,))
        assert apart(run(native.fit, architecture, work, steps=(5,)), expected) < 1e-9


@pytest.mark.parametrize(
    "flags, level",
    [
        ("fpu " + " ".join(native.LEVELS.values()), "v4"),
        (V3, "v3"),
        (V3.replace("fma", ""), "v2"),
        (V3 + " avx512f", "v3"),
        ("fpu sse2", None),
    ],
)
def test_the_highest_level_of_the_processor_is_taken(monkeypatch, tmp_path, flags, level):
    monkeypatch.setattr(native, "SOURCE", tmp_path / "cpu.cpp")
    monkeypatch.setattr(native, "_processor", lambda: f"flags : {flags}")
    assert native.shipped() is None  # a checkout has none
    for name in native.LEVELS:
        (tmp_path / f"cpu-x86-64-{name}.so").touch()
    expected = tmp_path / f"cpu-x86-64-{level}.so" if level else None
    assert native.shipped() == expected
    if level == "v4":  # whose vectors are twice as wide
        assert native.shipped(narrow=True) == tmp_path / "cpu-x86-64-v3.so"


def test_the_wheel_s_flags_are_those_of_the_first_use(root):
    text = re.search(r"PRIVATE\s+(-O3.*?)\)", (root / "CMakeLists.txt").read_text(), re.DOTALL)[1]
    own = [flag for flag in native.FLAGS if not flag.startswith(("-std", "-march", "-shared"))]
    shipped = [flag for flag in text.split() if not flag.startswith("-march")]
    assert shipped == [flag for flag in own if flag not in ("-fPIC", "-pthread")]
    assert "CXX_STANDARD 17" in (root / "CMakeLists.txt").read_text()
    assert (
        "foreach(level " + " ".join(sorted(native.LEVELS)) in (root / "CMakeLists.txt").read_text()
    )


def test_the_source_distribution_holds_what_a_build_needs(root, tmp_path):
    file = build("build_sdist", root, tmp_path)
    with tarfile.open(file) as content:
        names = {name.split("/", 1)[1] for name in content.getnames() if "/" in name}
    top = {name.split("/")[0] for name in names}
    assert top == {
        "scripts",
        "CMakeLists.txt",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "PKG-INFO",
    }
    assert "scripts/tandem_defense/restoration/cpu.cpp" in names
    assert not [name for name in names if "__pycache__" in name]
    assert file.stat().st_size < 1e6
