"""The text that decides about a rerun changes with the code that a job runs, and with no other."""

import re
import shutil
import subprocess
import sys

import pytest

PROGRAM = """
import sys; sys.path.insert(0, "scripts")
from tandem_defense.pipeline import registry, stale
kind = sys.argv[1]
print("\\n".join(stale.code("attack.py", kind if ":" in kind else registry.ATTACKS[kind])))
"""
ITERATIVE = "tandem_defense/attacks/iterative.py"


@pytest.fixture
def checkout(root, tmp_path):
    """A copy of the scripts, to be changed."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / "scripts", tmp_path / "scripts", ignore=ignore)
    return tmp_path


def hashes(checkout, kind) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind], cwd=checkout, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split("@") for line in done.stdout.splitlines() if "@" in line)


def edit(checkout, file, text="\nCHANGED = 1\n"):
    path = checkout / "scripts" / file
    path.write_text(path.read_text() + text)


def changed(before, after) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_what_an_attack_job_depends_on(checkout):
    found = set(hashes(checkout, "bim"))
    assert {"attack.py", ITERATIVE, "tandem_defense/attacks/base.py"} <= found
    assert {"tandem_defense/files/adversarial.py", "tandem_defense/settings.py"} <= found
    for other in ("attacks/pixel", "defenses/dip", "pipeline/registry", "pipeline/restore"):
        assert f"tandem_defense/{other}.py" not in found
    assert not [name for name in found if "download" in name or "artifacts" in name]


@pytest.mark.parametrize(
    ("file", "reruns_bim", "reruns_fgsm"),
    [
        (ITERATIVE, True, False),
        ("tandem_defense/attacks/base.py", True, True),
        ("tandem_defense/files/adversarial.py", True, True),
        ("tandem_defense/settings.py", True, True),
        ("attack.py", True, True),
        ("restore.py", False, False),
        ("tandem_defense/pipeline/registry.py", False, False),
        ("tandem_defense/pipeline/configuration.py", False, False),
    ],
)
def test_a_change_reruns_exactly_what_depends_on_it(checkout, file, reruns_bim, reruns_fgsm):
    before = hashes(checkout, "bim"), hashes(checkout, "fgsm")
    edit(checkout, file)
    after = hashes(checkout, "bim"), hashes(checkout, "fgsm")
    assert changed(before[0], after[0]) == ({file} if reruns_bim else set())
    assert changed(before[1], after[1]) == ({file} if reruns_fgsm else set())


def test_time_stamps_comments_and_docstrings_do_not_matter(checkout):
    before = hashes(checkout, "bim")
    for path in (checkout / "scripts").rglob("*.py"):
        text = path.read_text()
        assert text.startswith('"""')
        path.write_text('"""Another docstring. ' + text[3:] + "\n\n\n# a comment\n")
    source = (checkout / "scripts" / ITERATIVE).read_text()
    changed_text, count = re.subn(r'^( +""")(?=[A-Z])', r"\1Also: ", source, flags=re.MULTILINE)
    assert count > 3
    (checkout / "scripts" / ITERATIVE).write_text(changed_text)
    assert hashes(checkout, "bim") == before


def test_comments_in_compiled_code_do_not_matter(checkout):
    program = (
        "import sys; sys.path.insert(0, 'scripts')\n"
        "from tandem_defense.pipeline import stale\n"
        "print('\\n'.join(stale.code('restore.py', 'tandem_defense.defenses.dip:DIP')))"
    )

    def cpp():
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=checkout, capture_output=True, text=True
        )
        return [line for line in done.stdout.splitlines() if "cpu.cpp" in line]

    before = cpp()
    file = "tandem_defense/restoration/cpu.cpp"
    edit(checkout, file, "\n// a comment\n/* another\n   one */\n")
    assert len(before) == 1 and cpp() == before
    edit(checkout, file, "\nint more;\n")
    assert cpp() != before


def test_a_file_of_the_user_s_counts_with_what_it_imports(checkout):
    mine = checkout / "mine.py"
    mine.write_text("from tandem_defense.attacks.base import Attack\n\n\nclass Mine(Attack): ...\n")
    before = hashes(checkout, "mine.py:Mine")
    assert "mine.py" in before and "tandem_defense/attacks/base.py" in before
    mine.write_text(mine.read_text() + "# a comment\n")
    assert hashes(checkout, "mine.py:Mine") == before
    mine.write_text(mine.read_text() + "x = 1\n")
    assert changed(before, hashes(checkout, "mine.py:Mine")) == {"mine.py"}


def test_a_file_of_the_user_s_may_have_the_name_of_a_script(checkout):
    mine = checkout / "table.py"
    mine.write_text("from tandem_defense.attacks.base import Attack\n\n\nclass Mine(Attack): ...\n")
    before = hashes(checkout, "table.py:Mine")
    mine.write_text(mine.read_text() + "x = 1\n")
    assert changed(before, hashes(checkout, "table.py:Mine")) == {"table.py"}


ATTACK = "from tandem_defense.attacks.base import Attack\n"


def test_what_a_file_of_the_user_s_imports_from_beside_it_counts(checkout):
    """Another file, a package, and what these import; not what they do not import."""
    folder = checkout / "study"
    (folder / "nets").mkdir(parents=True)
    (folder / "mine.py").write_text(ATTACK + "import layers\n\n\nclass Mine(Attack): ...\n")
    (folder / "layers.py").write_text("from nets.deep import Net\nimport json, torch\n")
    (folder / "nets/__init__.py").write_text("")
    (folder / "nets/deep.py").write_text("class Net: ...\n")
    (folder / "other.py").write_text("")
    before = hashes(checkout, "study/mine.py:Mine")
    assert {"mine.py", "layers.py", "nets/__init__.py", "nets/deep.py"} <= set(before)
    assert not {"other.py", "torch/__init__.py"} & set(before)
    with (folder / "nets/deep.py").open("a") as file:
        file.write("x = 1\n")
    assert changed(before, hashes(checkout, "study/mine.py:Mine")) == {"nets/deep.py"}


def test_folders_without_an_init_count_too(checkout):
    """Beside the file and in a package; Python imports from them as well."""
    folder = checkout / "study"
    (folder / "nets/deep").mkdir(parents=True)
    (folder / "lib").mkdir()
    (folder / "nets/__init__.py").write_text("")
    (folder / "nets/deep/part.py").write_text("K = 1\n")
    (folder / "lib/core.py").write_text("from nets.deep.part import K\n")
    (folder / "mine.py").write_text(
        ATTACK + "from lib.core import K\n\n\nclass Mine(Attack): ...\n"
    )
    before = hashes(checkout, "study/mine.py:Mine")
    for file, name in (("lib/core.py", "core.py"), ("nets/deep/part.py", "part.py")):
        with (folder / file).open("a") as text:
            text.write("x = 1\n")
        after = hashes(checkout, "study/mine.py:Mine")
        assert changed(before, after) == {name}
        before = after


def test_what_an_installed_module_imports_from_its_package_counts(checkout, monkeypatch):
    """Also by a relative import; and of a package that lies in several places, the module alone."""
    monkeypatch.setenv("PYTHONPATH", str(checkout / "site"))
    for package in ("lab", "shared/part"):
        folder = checkout / "site" / package
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
        text = ATTACK + "from .base import Base\nimport numpy\n\n\nclass Mine(Base): ...\n"
        (folder / "attack.py").write_text(text)
        (folder / "base.py").write_text(ATTACK + "\n\nclass Base(Attack): ...\n")
        (folder / "other.py").write_text("")
    found = hashes(checkout, "lab.attack:Mine")
    assert {"lab/__init__.py", "lab/attack.py", "lab/base.py"} <= set(found)
    assert not [n for n in found if n.startswith("numpy") or n == "lab/other.py"]
    with (checkout / "site/lab/base.py").open("a") as file:
        file.write("x = 1\n")
    assert changed(found, hashes(checkout, "lab.attack:Mine")) == {"lab/base.py"}
    assert "part/attack.py" in hashes(checkout, "shared.part.attack:Mine")
