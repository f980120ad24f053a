"""The conda environments: equal to the lock file, complete for their rules, and usable."""

import ast
import os
import re
import subprocess
import sys

import pytest
import rattler
import yaml
from checkout import PARTS, copy_workflow
from conda import make_channel, make_client

from tandem_defense.pipeline import registry, schema, stale

# Where conda-forge's name is not the one on PyPI, or an import's is not its package's.
PYPI = {"pytorch": "torch"}
PACKAGES = {"torch": "pytorch", "PIL": "pillow", "skimage": "scikit-image"}
PACKAGES |= {"sklearn": "scikit-learn", "yaml": "pyyaml"}
ENVIRONMENTS = ("plots", "torch")


def dependencies(root, name) -> dict[str, str]:
    """An environment's pins: versions by name."""
    found = yaml.safe_load((root / f"envs/{name}.yaml").read_text())
    assert found["channels"] == ["conda-forge", "nodefaults"]
    specs = [spec for spec in found["dependencies"] if isinstance(spec, str) and spec != "pip"]
    return dict(spec.split(" =") for spec in specs)


def by_pip(root, name) -> dict[str, str]:
    """What of an environment comes from PyPI because conda-forge does not have it."""
    found = yaml.safe_load((root / f"envs/{name}.yaml").read_text())["dependencies"]
    parts = [part["pip"] for part in found if isinstance(part, dict)]
    assert not parts or "pip" in found  # else conda complains that it has to guess which pip
    return dict(spec.split("==") for part in parts for spec in part)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_versions_are_the_lock_files(root, name):
    lock = dict(re.findall(r"(?m)^([\w.-]+)==([^ ;]+)", (root / "requirements.lock").read_text()))
    found = dependencies(root, name)
    assert found.pop("python") in ("3.11", "3.12", "3.13")
    found.pop("cxx-compiler", None)  # not a Python package
    found |= by_pip(root, name)
    assert found == {name: lock[PYPI.get(name, name)] for name in found}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_specs_are_valid(root, name):
    for package, version in dependencies(root, name).items():
        spec = rattler.MatchSpec(f"{package} ={version}", strict=True)
        assert spec.name.normalized == package and spec.version


# What PyTorch's CUDA builds bring along.
OPTIONAL = {"triton"}


def rules(root) -> dict[str, str]:
    """The environment of every script that a rule names."""
    text = "".join(path.read_text() for path in sorted((root / "rules").glob("*.smk")))
    found = {}
    for rule in re.split(r"(?m)^ *rule\b", text)[1:]:
        script = re.search(r'script:\s+"../scripts/(\w+\.py)"', rule)
        if script:
            found[script[1]] = re.search(r'conda:\s+f?"../envs/(.+)\.yaml"', rule)[1]
    return found


def imports(script: str, *targets: str) -> set[str]:
    """Top-level names that a script imports through any module of ours, at any depth.

    targets : classes that it loads by name
    """
    files = set(stale._closure(script, script=True))
    for target in targets:
        files.update(stale._closure(target.split(":")[0]))
    found = set()
    for file in files:
        if not file.endswith(".py"):
            continue
        with open(file, encoding="utf-8") as text:
            nodes = list(ast.walk(ast.parse(text.read())))
        found.update(a.name for node in nodes if isinstance(node, ast.Import) for a in node.names)
        found.update(n.module for n in nodes if isinstance(n, ast.ImportFrom) and not n.level)
    return {name.split(".")[0] for name in found}


def jobs(root) -> list[tuple[str, str, list[str]]]:
    """(script, environment, classes that it may load)."""
    found = []
    for script, environment in rules(root).items():
        section = {"table.py": "tables", "figure.py": "figures"}.get(script)
        for target in registry.SECTIONS.get(section, {}).values():
            needs_torch = "classifier" in schema.constant(target, "NEEDS")
            found.append((script, "torch" if needs_torch else "plots", [target]))
        if not section:
            loads = any(
                f.endswith("pipeline/classes.py") for f in stale._closure(script, script=True)
            )
            sections = ("dataset", "classifiers", "attacks", "defenses") if loads else ()
            classes = [t for s in sections for t in registry.SECTIONS[s].values()]
            found.append((script, environment, classes))
    return found


def test_every_script_has_a_rule_and_an_environment(root):
    assert set(rules(root)) == {path.name for path in (root / "scripts").glob("*.py")}
    assert {environment for _, environment, _ in jobs(root)} == set(ENVIRONMENTS)


def test_imports_are_in_the_rules_environment(root):
    ours = {"tandem_defense"} | set(sys.stdlib_module_names) | OPTIONAL
    for script, environment, targets in jobs(root):
        needed = {PACKAGES.get(name, name) for name in imports(script, *targets) - ours}
        absent = needed - set(dependencies(root, environment) | by_pip(root, environment))
        assert not absent, f"{script} {targets} needs {absent}: add to envs/{environment}.yaml"
    assert "torch" in imports("attack.py") and "torch" not in imports("table.py")


@pytest.fixture
def conda(root, tmp_path, monkeypatch):
    """A checkout, and on PATH a stand-in for conda whose channel has just the pinned packages."""
    specs = {s for n in ENVIRONMENTS for s in map(" =".join, dependencies(root, n).items())}
    specs.add("pip")
    make_channel(tmp_path / "channel", sorted(specs), tmp_path / "notes")
    client = make_client(tmp_path / "base", tmp_path / "channel")
    monkeypatch.setenv("PATH", f"{client}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "checkout").mkdir()
    return copy_workflow(root, tmp_path / "checkout")


def use_conda(checkout, *arguments: str) -> subprocess.CompletedProcess:
    """Make files with --use-conda; what Snakemake says, in one text."""
    command = [sys.executable, "-m", "snakemake", "--directory", "demo", "--cores", "1"]
    return subprocess.run(
        [*command, "--use-conda", *arguments],
        cwd=checkout,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_a_job_runs_in_its_environment(conda, tmp_path):
    done = use_conda(conda, "results/images/funn/test.safetensors")
    assert done.returncode == 0, done.stdout
    assert "Creating conda environment" in done.stdout and "Activating conda" in done.stdout
    (prefix,) = set((tmp_path / "notes").read_text().split())
    assert prefix.startswith(str(conda / "demo/.snakemake/conda"))
    installed = os.listdir(f"{prefix}/conda-meta")
    for name, version in dependencies(conda, "torch").items():
        assert f"{name}-{version}-0.json" in installed
    assert open(f"{prefix}/pip.txt").read() == "pyautoattack==0.2.0" and "pip-1-0.json" in installed
    again = use_conda(conda, "results/images/tdips/test.safetensors")
    assert again.returncode == 0 and "Creating conda environment" not in again.stdout


def test_tables_and_figures_have_an_environment(conda, tmp_path):
    """Also those whose rules are made in a loop: one needs torch, the others do not."""
    done = use_conda(conda, "--conda-create-envs-only", "table1", "figure7")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("Creating conda environment") == 2
    for name in ENVIRONMENTS:
        assert f"envs/{name}.yaml" in done.stdout


def test_an_environment_that_cannot_be_solved_says_which_package(conda):
    file = conda / "envs/torch.yaml"
    file.write_text(re.sub(r"numpy =.*", "numpy =99.1", file.read_text()))
    done = use_conda(conda, "results/images/funn/test.safetensors")
    assert done.returncode != 0
    assert "Could not create conda environment from" in done.stdout
    assert "envs/torch.yaml" in done.stdout and "numpy" in done.stdout and "99.1" in done.stdout
    assert "Traceback" not in done.stdout


def test_the_apptainer_definition_is_well_formed(root):
    """A header, known sections, and shell that a shell can read."""
    header, *parts = re.split(r"(?m)^%", (root / "apptainer.def").read_text())
    keys = dict(line.split(": ") for line in header.splitlines() if line and line[0] != "#")
    assert set(keys) == {"Bootstrap", "From"}
    sections = dict(part.split("\n", 1) for part in parts)
    assert list(sections) == ["files", "post", "environment", "runscript"]
    for name in ("post", "environment", "runscript"):
        subprocess.run(["sh", "-n"], input=sections[name], text=True, check=True)
        assert sections[name].strip()


def test_both_containers_are_made_of_the_lock_files_and_all_of_the_workflow(root):
    docker, apptainer = (root / "Dockerfile").read_text(), (root / "apptainer.def").read_text()
    base = re.search(r"(?m)^FROM (.+)$", docker)[1]
    assert f"\nFrom: {base}\n" in apptainer
    for line in re.findall(r"(?:pip install|uv pip install).*", docker):
        assert "--require-hashes" in line and line.removesuffix(" \\").lstrip("& ") in apptainer
    copied = re.search(r"%files\n((?:    .+\n)+)", apptainer)[1].split()[::2]
    assert all((root / path).exists() for path in copied)
    needed = {*PARTS, "Snakefile", "config.yaml", "performance/restoration.csv"} - {"demo"}
    assert needed <= set(copied)
