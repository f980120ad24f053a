"""Without the extras the package works; what needs one says which, and how to install it."""

import ast
import json
import subprocess
import sys

import pytest

# Blocks packages, imports every module of ours, prints what went wrong.
PROGRAM = """
import importlib, json, sys
from pathlib import Path

sys.modules.update(dict.fromkeys(sys.argv[1:]))
failed = {}
for path in sorted(Path("scripts/tandem_defense").rglob("*.py")):
    name = ".".join(path.relative_to("scripts").with_suffix("").parts).removesuffix(".__init__")
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name.removeprefix("tandem_defense.")] = f"{type(error).__name__}: {error}"
print(json.dumps(failed))
"""
PACKAGES = "art foolbox matplotlib pandas pyarrow pyautoattack scipy seaborn skimage sklearn"
PACKAGES = (*PACKAGES.split(), "tabulate", "tensorly", "timm", "torchvision", "yaml")
NEEDING = ("artifacts", "attacks", "evaluation", "classifiers.timm", "classifiers.torchvision")
NEEDING += (
    "defenses.related",
    "datasets.digits",
    "datasets.nips2017",
    "datasets.photos",
    "files.predictions",
)
NEEDING += ("files.digest", "files.judgments", "files.tables")
NEEDING += ("interfaces", "pipeline.threats", "threats")
EXTRAS = {"classifiers.timm": "timm", "interfaces.art": "art"}
EXTRAS |= {"attacks.autoattack": "autoattack"}  # others need `pipeline`
NEEDING += tuple(
    f"pipeline.{stage}" for stage in ("attack", "configfiles", "evaluate", "restore", "rows")
)


def failures(root, *blocked):
    """What cannot be imported without some packages, {module: error}."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *blocked],
        cwd=root,
        env={"PYTHONPATH": str(root / "scripts"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(failed):
    """Every module that cannot be imported names the package and the extra."""
    assert failed
    for name, error in failed.items():
        extra = EXTRAS.get(name, "pipeline")
        if name.startswith("attacks.") and "pyautoattack" not in error:
            extra = "pipeline"  # what all attacks need is looked for first
        assert error.startswith("ImportError: this needs the package "), f"{name}: {error}"
        assert error.endswith(f': pip install "tandem-defense[{extra}]"'), f"{name}: {error}"


def test_without_extras_what_needs_none_can_be_imported(root):
    failed = failures(root, *PACKAGES)
    check(failed)
    assert not [name for name in failed if not name.startswith(NEEDING)]
    for name in NEEDING:
        assert any(module.startswith(name) for module in failed), f"{name} needs no extra any more"


@pytest.mark.parametrize("package", ["scipy", "seaborn", "pyarrow"])
def test_one_missing_package_is_named(root, package):
    """Others that the same extra installs are there, and are imported first."""
    failed = failures(root, package)
    check(failed)
    assert all(f"the package {package}:" in error for error in failed.values())


def test_every_import_of_an_extra_s_package_is_guarded(root):
    """In a block `with extra(...)`, or for type checkers alone."""
    for path in (root / "scripts/tandem_defense").rglob("*.py"):
        tree = ast.parse(path.read_text())
        guards = ast.With, ast.If
        blocks = [n for n in ast.walk(tree) if isinstance(n, guards) and guarded(ast.unparse(n))]
        inside = {id(node) for block in blocks for node in ast.walk(block)}
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.ImportFrom):
                names = [node.module]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                assert name.split(".")[0] not in PACKAGES or id(node) in inside, (path, name)


def guarded(text):
    return text.startswith(("with extra(", "if TYPE_CHECKING:"))
