"""Which code a job's result depends on, as text that changes exactly when that code does."""

from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from modulefinder import ModuleFinder
from pathlib import Path

SCRIPTS = Path(__file__).parents[1]
# The registry names classes and the settings' reader checks them; no result depends on either.
NEUTRAL = {"tandem_defense", "tandem_defense.registry", "tandem_defense.settings"}


class OurModules(ModuleFinder):
    """A module finder that follows imports only into the package."""

    def import_hook(self, name, *args, **kwargs):
        """Skip what is not ours: torch alone would take a minute to walk through."""
        if name.split(".")[0] == "tandem_defense":
            return super().import_hook(name, *args, **kwargs)
        return None


@cache
def _closure(file: str) -> tuple[str, ...]:
    finder = OurModules(path=[str(SCRIPTS)])
    finder.run_script(file)
    files = {m.__file__ for n, m in finder.modules.items() if m.__file__ and n not in NEUTRAL}
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
    files = set(_closure(str(SCRIPTS / script)))
    for target in targets:
        files.update(_closure(find_spec(target.split(":")[0]).origin))
    names = [f"{Path(f).relative_to(SCRIPTS)}@{_hash(f)}" for f in sorted(files)]
    return names + sorted(set(targets))
