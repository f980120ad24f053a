"""Which code a job's result depends on, as text that changes exactly when that code does."""

from functools import cache
from hashlib import sha256
from modulefinder import ModuleFinder
from pathlib import Path

SCRIPTS = Path(__file__).parents[1]
# These name classes and check what is asked of them; no result depends on them.
NEUTRAL = {"", ".registry", ".settings", ".configuration"}


class OurModules(ModuleFinder):
    """A module finder that follows imports only into the package."""

    def import_hook(self, name, *args, **kwargs):
        """Skip what is not ours: torch alone would take a minute to walk through."""
        if name.split(".")[0] == "tandem_defense":
            return super().import_hook(name, *args, **kwargs)
        return None


@cache
def _closure(name: str) -> tuple[str, ...]:
    """Files of ours behind a script ("attack.py") or a module ("tandem_defense.cache")."""
    finder = OurModules(path=[str(SCRIPTS)])
    if name.endswith(".py"):
        finder.run_script(str(SCRIPTS / name))
    else:
        finder.import_hook(name)
    neutral = {f"tandem_defense{n}" for n in NEUTRAL}
    files = {m.__file__ for n, m in finder.modules.items() if m.__file__ and n not in neutral}
    # What a module compiles lies beside it.
    files |= {str(p) for f in files for p in Path(f).parent.glob("*.cpp")}
    return tuple(sorted(files))


@cache
def _hash(file: str) -> str:
    return sha256(Path(file).read_bytes()).hexdigest()[:12]


def code(script: str, *targets: str) -> list[str]:
    """``path@hash`` of a script, every module of ours that it imports, and `targets`' modules.

    `targets` are registry values ("module:Class") whose classes the script loads by name.
    Snakemake compares these parameters with those of the last run: the reason it prints names the
    one file that changed, and a `git checkout` that only touches time stamps reruns nothing.
    """
    files = set(_closure(script))
    for target in targets:
        files.update(_closure(target.split(":")[0]))
    names = [f"{Path(f).relative_to(SCRIPTS)}@{_hash(f)}" for f in sorted(files)]
    return names + sorted(set(targets))
