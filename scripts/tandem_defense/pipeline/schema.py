"""The settings of a class read from its source text: no configuration check imports PyTorch."""

import ast
import re
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, resolve_name
from pathlib import Path

from tandem_defense.settings import SUPPLIED, SUPPLIED_TO_FIT, TYPES, evaluate


@cache
def source(module: str) -> Path:
    """Where a module is: "package.module", or the path of a file that ends in .py.

    Raises ImportError for a module that is not there.
    """
    if module.endswith(".py"):
        if Path(module).is_file():
            return Path(module)
        raise ImportError(f"there is no file {module}")
    top, *parts = module.split(".")
    spec, name = find_spec(top), top
    for part in parts:  # find_spec(module) would run the packages that it is in
        name = f"{name}.{part}"
        inside = spec.submodule_search_locations if spec else None
        spec = PathFinder.find_spec(name, inside) if inside else None
    if spec is None or not spec.origin:
        raise ImportError(f"there is no module {module}")
    return Path(spec.origin)


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(source(module).read_bytes())  # in the encoding that it declares


def has(target: str) -> bool:
    """Whether a module "module:name" has, as far as its text tells, something of that name.

    Raises ImportError where there is no such module, SyntaxError or ValueError for one that cannot
    be read.
    """
    module, name = target.rsplit(":", 1)
    for node in ast.walk(_tree(module)):
        match node:
            case ast.FunctionDef(name=found) | ast.ClassDef(name=found) | ast.Name(id=found):
                if found == name:
                    return True
            case ast.alias():
                if name == (node.asname or node.name) or node.name == "*":
                    return True
    return False


def relative(module: str) -> list[str]:
    """What a file "file.py" imports from by dots, which only a module of a package can."""
    if not module.endswith(".py"):
        return []
    lines = (node for node in ast.walk(_tree(module)) if isinstance(node, ast.ImportFrom))
    return ["." * node.level + (node.module or "") for node in lines if node.level]


def _importable(path: Path) -> bool:
    """Whether a file or folder can be imported: a folder needs no ``__init__.py`` for that."""
    if path.is_dir() and path.name.isidentifier():
        return any(next(path.glob(pattern), None) for pattern in ("*.py", "*/*.py"))
    return path.suffix == ".py"


@cache
def home(module: str) -> tuple[Path, frozenset[str]]:
    """The folder that a module's own modules are imported from, and their top-level names.

    A file has those that lie beside it, an installed module those of its package.
    """
    if module.endswith(".py"):
        folder = source(module).parent
        return folder, frozenset(p.stem for p in folder.iterdir() if _importable(p))
    top = module.split(".")[0]
    spec = find_spec(top)
    if spec is None or not spec.origin:  # part of a package that several distributions share
        return Path(), frozenset()
    return Path(spec.origin).parents[1 if spec.submodule_search_locations else 0], frozenset([top])


def _imported(module: str, node: ast.ImportFrom) -> str | None:
    """The module, or file, that a line imports from; None unless it is ours or the module's own."""
    name, is_file = node.module or "", module.endswith(".py")
    folder, own = home(module)
    if node.level and not is_file:
        package = module if source(module).stem == "__init__" else module.rpartition(".")[0]
        return resolve_name("." * node.level + name, package)
    if node.level:
        folder = Path(module).resolve().parents[node.level - 1]
    elif name.split(".")[0] not in own | {"tandem_defense"}:
        return None
    elif not is_file or name.split(".")[0] not in own:
        return name
    path = folder.joinpath(*name.split(".")) if name else folder
    return str(path / "__init__.py") if path.is_dir() else f"{path}.py"


@cache
def ancestry(target: str) -> list[tuple[str, ast.ClassDef]]:
    """(module, definition) of a class "module:Class" and its base classes, the class first.

    Base classes of other packages are left out. Raises ImportError where the module has no such
    class.
    """
    module, name = target.rsplit(":", 1)
    tree = _tree(module)
    local = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    imports = {
        alias.asname or alias.name: f"{found}:{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (found := _imported(module, node))
        for alias in node.names
    }
    if name in imports:
        return ancestry(imports[name])
    if name not in local:
        raise ImportError(f"{module} has no class {name}")
    lines = [(module, local[name])]
    for base in local[name].bases:
        if not isinstance(base, ast.Name):
            continue
        parent = f"{module}:{base.id}" if base.id in local else imports.get(base.id)
        if parent:
            lines += ancestry(parent)
    return lines


def _schema(annotation: ast.expr) -> dict:
    match annotation:
        case ast.BinOp(op=ast.BitOr()):
            return {"anyOf": [_schema(annotation.left), _schema(annotation.right)]}
        case ast.Subscript(value=ast.Name(id="Literal")):
            values = ast.literal_eval(annotation.slice)
            return {"enum": list(values) if isinstance(values, tuple) else [values]}
        case ast.Constant(value=None):
            return TYPES["None"]
        case ast.Name(id=name) if name in TYPES:
            return TYPES[name]
    raise TypeError(f"no setting can have the type {ast.unparse(annotation)!r}: see settings.TYPES")


def _is_setting(line: ast.stmt) -> bool:
    return isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)


def schema(target: str) -> dict:
    """JSON schema of the settings of a class, its base classes' included."""
    properties: dict[str, dict] = {}
    required: dict[str, bool] = {}
    for _, node in reversed(ancestry(target)):
        for line in node.body:
            if not _is_setting(line) or line.target.id in SUPPLIED:
                continue
            properties[line.target.id] = _schema(line.annotation)
            required[line.target.id] = line.value is None
    return _object(properties, [name for name, needed in required.items() if needed])


def defaults(target: str) -> dict[str, object]:
    """The defaults of the settings that are literals, or fractions of them."""
    literals = {}
    for _, node in reversed(ancestry(target)):
        for line in node.body:
            if _is_setting(line) and line.value is not None:
                try:
                    literals[line.target.id] = _literal(line.value)
                except (KeyError, TypeError):  # a name, a call
                    literals.pop(line.target.id, None)
    return literals


def _literal(node: ast.expr) -> object:
    """The value of a literal, or of arithmetic with some, as 8 / 255."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return evaluate(ast.unparse(node), {})


def fit(target: str) -> dict | None:
    """JSON schema of the key `training`, the keyword-only parameters of ``fit``; None without."""
    function = _method(target, "fit")
    if function is None:
        return None
    pairs = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    pairs = [(arg, default) for arg, default in pairs if arg.arg not in SUPPLIED_TO_FIT]
    properties = {arg.arg: _schema(arg.annotation) for arg, _ in pairs}
    return _object(properties, [arg.arg for arg, default in pairs if default is None])


def trained_against_a_classifier(target: str) -> bool:
    """Whether the class's ``fit`` takes a classifier, as HGD's does."""
    function = _method(target, "fit")
    return function is not None and "classifier" in [a.arg for a in function.args.kwonlyargs]


# The class attributes that are asked for, by section.
CONSTANTS = {
    "dataset": ("AVAILABLE", "CLASSES", "FILES", "SHAPE"),
    "classifiers": ("ARCHITECTURES", "CHECKPOINT", "MAPS", "RELEASED"),
    "attacks": ("LEAST_CLASSES", "UNBOUNDED", "norm", "semantics"),
    "defenses": ("CHECKPOINT", "RELEASED", "RESTORATION"),
    "threats": ("ATTACK", "AWARE"),
    "tables": ("NEEDS",),
    "figures": ("MAPS", "NEEDS"),
}


def constant(target: str, name: str) -> object:
    """The literal value of a class attribute, e.g. a dataset's ``AVAILABLE``; None without it.

    Raises TypeError for one that is not a literal.
    """
    for _, node in ancestry(target):
        for line in node.body:
            match line:
                case ast.Assign(targets=[ast.Name(id=found)]) if found == name:
                    try:
                        return ast.literal_eval(line.value)
                    except ValueError as error:
                        raise TypeError(f"{name} is not a literal: {ast.unparse(line)}") from error
    return None


@cache
def architectures(package: str) -> frozenset[str] | None:
    """The networks that torchvision or timm registers, from its source; timm's without tags.

    None where the package is missing, as it may be where Snakemake itself runs: then the job that
    makes the classifier says what is wrong.
    """
    spec = find_spec(package)
    if spec is None or not spec.origin:
        return None
    files = (Path(spec.origin).parent / "models").glob("*.py")
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    pattern = r"^@register_model(?:\(\))?\n(?:@.*\n)*def (\w+)"
    return frozenset(re.findall(pattern, text, re.MULTILINE))


def defines(target: str, name: str) -> bool | None:
    """Whether a class, or a base class, has a method of its own; None where that cannot be read.

    Abstract ones, which only raise NotImplementedError, do not count.
    """
    lines = ancestry(target)
    for _, node in lines:
        for line in node.body:
            if isinstance(line, ast.FunctionDef) and line.name == name:
                return "NotImplementedError" not in ast.unparse(line.body[-1])
    read = {node.name for _, node in lines}
    bases = {ast.unparse(base) for _, node in lines for base in node.bases}
    return False if bases <= read | {"Module", "nn.Module", "torch.nn.Module"} else None


def _method(target: str, name: str) -> ast.FunctionDef | None:
    for _, node in ancestry(target):
        for line in node.body:
            if isinstance(line, ast.FunctionDef) and line.name == name:
                return line
    return None


def _object(properties: dict, required: list[str]) -> dict:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
