"""The text that decides about a rerun changes with the code that a job runs, and with no other."""

import shutil
import subprocess
import sys

import pytest

PROGRAM = """
import sys; sys.path.insert(0, "scripts")
from tandem_defense import registry, stale
print("\\n".join(stale.code("attack.py", registry.ATTACKS[sys.argv[1]])))
"""


@pytest.fixture
def checkout(root, tmp_path):
    """A copy of the scripts, to be changed."""
    shutil.copytree(root / "scripts", tmp_path / "scripts")
    return tmp_path


def hashes(checkout, attack) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, attack],
        cwd=checkout,
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(line.split("@") for line in done.stdout.splitlines() if "@" in line)


def edit(checkout, file):
    path = checkout / "scripts" / file
    path.write_text(path.read_text() + "\n# changed\n")


def changed(before, after) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_what_an_attack_job_depends_on(checkout):
    found = set(hashes(checkout, "bim"))
    assert {"attack.py", "tandem_defense/attacks/iterative.py"} <= found
    assert {"tandem_defense/attacks/base.py", "tandem_defense/cache.py"} <= found
    assert "tandem_defense/attacks/pixel.py" not in found
    assert "tandem_defense/defenses/dip.py" not in found
    assert "tandem_defense/registry.py" not in found


@pytest.mark.parametrize(
    ("file", "reruns_bim", "reruns_fgsm"),
    [
        ("tandem_defense/attacks/iterative.py", True, False),
        ("tandem_defense/attacks/base.py", True, True),
        ("tandem_defense/cache.py", True, True),
        ("attack.py", True, True),
        ("restore.py", False, False),
        ("tandem_defense/registry.py", False, False),
    ],
)
def test_a_change_reruns_exactly_what_depends_on_it(checkout, file, reruns_bim, reruns_fgsm):
    before = hashes(checkout, "bim"), hashes(checkout, "fgsm")
    edit(checkout, file)
    after = hashes(checkout, "bim"), hashes(checkout, "fgsm")
    assert changed(before[0], after[0]) == ({file} if reruns_bim else set())
    assert changed(before[1], after[1]) == ({file} if reruns_fgsm else set())


def test_time_stamps_do_not_matter(checkout):
    before = hashes(checkout, "bim")
    for path in (checkout / "scripts").rglob("*.py"):
        path.touch()
    assert hashes(checkout, "bim") == before
