"""Settings are signatures: a class's keyword-only parameters are its keys in the configuration.

The annotation says what a value may be (see ``TYPES``), the default is the default, the class's
docstring is the description. Everything here reads source text and never imports torch, so that a
configuration is checked in a second, on machines that have only Snakemake.
"""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal  # noqa: F401  (an annotation that settings may use)

Epsilon = float  # a size of perturbation, in [0, 1] pixels; configurations may say 8/255
Fraction = float  # a share, in [0, 1]
Positive = float  # a number > 0
Count = int  # a whole number ≥ 1
Size = int  # a whole number ≥ 0
Sizes = tuple  # a list of whole numbers ≥ 1

TYPES = {
    "Epsilon": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "Fraction": {"type": "number", "minimum": 0, "maximum": 1},
    "Positive": {"type": "number", "exclusiveMinimum": 0},
    "Count": {"type": "integer", "minimum": 1},
    "Size": {"type": "integer", "minimum": 0},
    "Sizes": {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 1}},
    "float": {"type": "number"},
    "int": {"type": "integer"},
    "str": {"type": "string"},
    "bool": {"type": "boolean"},
    "None": {"type": "null"},
}
# Parameters that the pipeline itself supplies: not settings.
SUPPLIED = {"seed", "classifier"}


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(Path(find_spec(module).origin).read_text(encoding="utf-8"))


def _find(target: str, method: str) -> ast.FunctionDef | None:
    """The definition of a class's method, its base classes searched in order."""
    module, name = target.split(":")
    tree = _tree(module)
    imports = {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    local = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if name not in local:
        return None
    for node in local[name].body:
        if isinstance(node, ast.FunctionDef) and node.name == method:
            return node
    for base in local[name].bases:
        if isinstance(base, ast.Name):
            where = f"{module}:{base.id}" if base.id in local else imports.get(base.id, "")
            if where.startswith("tandem_defense.") and (found := _find(where, method)):
                return found
    return None


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


def schema(target: str, method: str = "__init__") -> dict | None:
    """JSON schema of the keyword-only parameters of a class's method; None without the method.

    `target` is a registry's value, e.g. ``"tandem_defense.attacks.iterative:BIM"``. A class that
    the pipeline trains has a method ``fit``, whose parameters are the entry's key `training`.
    """
    found = _find(target, method)
    if found is None:
        return None if method != "__init__" else _object({}, [])
    pairs = zip(found.args.kwonlyargs, found.args.kw_defaults, strict=True)
    pairs = [(arg, default) for arg, default in pairs if arg.arg not in SUPPLIED]
    properties = {arg.arg: _schema(arg.annotation) for arg, _ in pairs}
    return _object(properties, [arg.arg for arg, default in pairs if default is None])


def _object(properties: dict, required: list[str]) -> dict:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def supplied(target: str, method: str, name: str) -> bool:
    """Whether a class's method takes the parameter `name` from the pipeline.

    ``supplied(hgd, "fit", "classifier")`` is how a rule knows that HGD is trained per classifier.
    """
    found = _find(target, method)
    return found is not None and name in [arg.arg for arg in found.args.kwonlyargs]


def constant(target: str, name: str) -> object:
    """The literal value of a class attribute, e.g. a dataset's ``AVAILABLE``; None without it."""
    module, class_name = target.split(":")
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            for line in node.body:
                if isinstance(line, ast.Assign) and line.targets[0].id == name:
                    return ast.literal_eval(line.value)
    return None
