"""Which code a job's result depends on, as text that changes exactly when that code does.

Docstrings, comments and layout are not code: changing them changes nothing here.
"""

import ast
import re
from functools import cache
from hashlib import sha256
from modulefinder import ModuleFinder
from pathlib import Path

from tandem_defense.pipeline.schema import source

SCRIPTS = Path(__file__).parents[2]


class OurModules(ModuleFinder):
    """A module finder that follows imports only into the package."""

    def import_hook(self, name, *args, **kwargs):
        """Skip what is not ours: torch alone would take a minute to walk through."""
        if name.split(".")[0] == "tandem_defense":
            return super().import_hook(name, *args, **kwargs)
        return None


@cache
def _closure(name: str, *, script: bool = False) -> tuple[str, ...]:
    """Files of ours behind a module, a file of the user's, or a script of ours ("attack.py")."""
    finder = OurModules(path=[str(SCRIPTS)])
    own = ()
    if script:
        finder.run_script(str(SCRIPTS / name))
    elif name.endswith(".py"):
        finder.run_script(name)
    elif name.split(".")[0] == "tandem_defense":
        finder.import_hook(name)
    else:  # a module of the user's that is installed
        own = (str(source(name)),)
        finder.run_script(own[0])
    files = {module.__file__ for module in finder.modules.values() if module.__file__}
    # What a module compiles lies beside it.
    files |= {str(p) for f in files for p in Path(f).parent.glob("*.cpp") if _ours(p)}
    return tuple(sorted(files | set(own)))


def _ours(path: str | Path) -> bool:
    return Path(path).is_relative_to(SCRIPTS)


class _Undocumented(ast.NodeTransformer):
    """Takes the docstrings out of a syntax tree."""

    def _strip(self, node):
        self.generic_visit(node)
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return node

    visit_Module = visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = _strip


@cache
def _hash(file: str) -> str:
    if file.endswith(".py"):
        code = ast.dump(_Undocumented().visit(ast.parse(Path(file).read_bytes())))
    else:
        text = Path(file).read_text(encoding="utf-8")
        code = " ".join(re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL).split())
    return sha256(code.encode()).hexdigest()[:12]


def code(script: str, *targets: str) -> list[str]:
    """``path@hash`` of a script, every module of ours that it imports, and `targets`' modules.

    `targets` are classes that the script is told, "module:Class" or "file.py:Class". Snakemake
    compares these parameters with those of the last run: the reason it prints names the one file
    that changed, and a `git checkout` that only touches time stamps reruns nothing.
    """
    files = set(_closure(script, script=True))
    for target in targets:
        files.update(_closure(target.rsplit(":", 1)[0]))
    names = {f: str(Path(f).relative_to(SCRIPTS)) if _ours(f) else Path(f).name for f in files}
    return [f"{names[f]}@{_hash(f)}" for f in sorted(files)] + sorted(set(targets))
