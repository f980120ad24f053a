"""Which code a job's result depends on, as text that changes exactly when that code does.

Docstrings, comments and layout are not code: changing them changes nothing here.
"""

import ast
import re
from functools import cache
from hashlib import sha256
from importlib.machinery import PathFinder
from modulefinder import ModuleFinder
from pathlib import Path
from types import CodeType

from tandem_defense.pipeline.schema import home, source

SCRIPTS = Path(__file__).parents[2]
FOLDER = "folder"  # a kind of module that the finder's parent lacks


class OwnModules(ModuleFinder):
    """A module finder that follows imports only into the package, and into a module's own."""

    def __init__(self, folder: Path = SCRIPTS, names: frozenset[str] = frozenset()):
        super().__init__(path=[str(folder), str(SCRIPTS)])
        self.names = names | {"tandem_defense"}

    def import_hook(self, name, caller=None, fromlist=None, level=-1):
        """Skip what is someone else's: torch alone would take a minute to walk through."""
        if level > 0 or name.split(".")[0] in self.names:
            return super().import_hook(name, caller, fromlist, level)
        return None

    def find_module(self, name, path, parent=None):
        """Also folders without ``__init__.py``, which the parent does not know."""
        spec = PathFinder.find_spec(name, self.path if path is None else path)
        if spec is not None and spec.loader is None:
            return None, next(iter(spec.submodule_search_locations)), ("", "", FOLDER)
        return super().find_module(name, path, parent)

    def load_module(self, fqname, fp, pathname, file_info):
        """Read a file once, however many closures it is in."""
        if file_info[2] == FOLDER:
            module = self.add_module(fqname)
            module.__path__ = [pathname]
            return module
        if not str(pathname).endswith(".py"):
            return super().load_module(fqname, fp, pathname, file_info)
        module = self.add_module(fqname)
        module.__file__, module.__code__ = pathname, _compiled(pathname)
        self.scan_code(module.__code__, module)
        return module

    def scan_opcodes(self, co):
        """As the parent's, which reads the same bytecode again for every closure."""
        return _imports(co)


@cache
def _compiled(file: str) -> CodeType:
    return compile(Path(file).read_bytes(), file, "exec")


@cache
def _imports(co: CodeType) -> tuple:
    return tuple(ModuleFinder().scan_opcodes(co))


@cache
def _closure(name: str, *, script: bool = False) -> tuple[str, ...]:
    """Files behind a module, a file of the user's, or a script of ours ("attack.py").

    They are ours and, of the user's, what lies beside the file, or in the package, and is imported.
    """
    finder = OwnModules() if script else OwnModules(*home(name))
    if script:
        finder.run_script(str(SCRIPTS / name))
    elif name.endswith(".py"):
        finder.run_script(name)
    elif name.split(".")[0] in finder.names:
        finder.import_hook(name)
    else:
        finder.run_script(str(source(name)))
    files = {m.__file__ for m in finder.modules.values() if str(m.__file__).endswith(".py")}
    # What a module compiles lies beside it.
    files |= {str(p) for f in files for p in Path(f).parent.glob("*.cpp") if _ours(p)}
    return tuple(sorted(files))


def beside(file: str) -> set[str]:
    """What a file of the user's imports from its folder: top-level names, as they lie there."""
    folder = Path(file).resolve().parent
    own = [Path(f).resolve() for f in _closure(file) if not _ours(f)]
    return {str(f.relative_to(folder).parts[0]) for f in own if f.is_relative_to(folder)} - {
        Path(file).name
    }


def _ours(path: str | Path) -> bool:
    return Path(path).is_relative_to(SCRIPTS)


def _name(file: str) -> str:
    """A file as its package has it: "mine.py", "package/module.py"."""
    folder = Path(file).parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return str(Path(file).relative_to(folder))


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

    These with what they import of ours and of their own: beside a file, in an installed package.

    `targets` are classes that the script is told, "module:Class" or "file.py:Class". Snakemake
    compares these parameters with those of the last run: the reason it prints names the one file
    that changed, and a `git checkout` that only touches time stamps reruns nothing.
    """
    files = set(_closure(script, script=True))
    for target in targets:
        files.update(_closure(target.rsplit(":", 1)[0]))
    return [f"{_name(f)}@{_hash(f)}" for f in sorted(files)] + sorted(set(targets))
