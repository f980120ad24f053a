"""One declaration of a setting: a class's annotated attributes are its keys in the configuration.

    class Median(Defense):
        kernel: Count = 3

An annotation says what a value may be, the default is the default. A class that states settings is
a keyword-only dataclass: ``Median(kernel=5)`` is checked as the configuration is. Subclasses
inherit the settings and state only their own. ``pipeline/schema.py`` reads the same declarations
from the source text, so that a configuration is checked without importing PyTorch.

What one annotation cannot say is a literal attribute: ``CONDITIONS`` that settings have to fulfill
together, each with what to do about it, and ``ONLY_IF``, where a setting has an effect at all:

    CONDITIONS = {"len(depths) == len(widths)": "give each level one entry"}
    ONLY_IF = {"line_steps": "semantics == 'minimal'"}

A class that is trained has a method ``fit``, decorated with :func:`checked`; its keyword-only
parameters are the settings of the entry's key ``training``.
"""

import ast
import functools
import inspect
import math
import operator
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields
from typing import (
    Annotated,
    Any,
    Literal,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from jsonschema import Draft202012Validator, validators

# Every type that a setting can have, by the name that stands in an annotation, as JSON schema.
TYPES: dict[str, dict] = {
    "Epsilon": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "Fraction": {"type": "number", "minimum": 0, "maximum": 1},
    "HeldShare": {"type": "number", "minimum": 0.001, "maximum": 0.5},
    "Smoothing": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
    "Positive": {"type": "number", "exclusiveMinimum": 0},
    "NonNegative": {"type": "number", "minimum": 0},
    "Count": {"type": "integer", "minimum": 1},
    "Size": {"type": "integer", "minimum": 0},
    "Counts": {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 1}},
    "Steps": {
        "type": "array",
        "minItems": 1,
        "uniqueItems": True,
        "items": {"type": "integer", "minimum": 1},
    },
    "OddCount": {"type": "integer", "minimum": 1, "not": {"multipleOf": 2}},
    "Percent": {"type": "integer", "minimum": 1, "maximum": 100},
    # Names of an experiment's entries, for tables and figures.
    "ClassifierName": {"type": "string", "entry": "classifiers"},
    "ClassifierNames": {
        "type": "array",
        "minItems": 1,
        "uniqueItems": True,
        "items": {"type": "string", "entry": "classifiers"},
    },
    "AttackName": {"type": "string", "entry": "attacks"},
    "AttackNames": {
        "type": "array",
        "minItems": 1,
        "uniqueItems": True,
        "items": {"type": "string", "entry": "attacks"},
    },
    "ThreatName": {"type": "string", "entry": "threats"},
    "DefenseName": {"type": "string", "entry": "defenses"},
    "DefenseNames": {
        "type": "array",
        "minItems": 1,
        "uniqueItems": True,
        "items": {"type": "string", "entry": "defenses"},
    },
    # Of defenses that optimize for every image: all, those with one network, those with two.
    "RestorationName": {"type": "string", "entry": "defenses", "networks": [1, 2]},
    "RestorationNames": {
        "type": "array",
        "minItems": 1,
        "uniqueItems": True,
        "items": {"type": "string", "entry": "defenses", "networks": [1, 2]},
    },
    "PriorName": {"type": "string", "entry": "defenses", "networks": [1]},
    "TandemName": {"type": "string", "entry": "defenses", "networks": [2]},
    "Models": {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {
            "type": "object",
            "required": ["classifier"],
            "additionalProperties": False,
            "properties": {
                "classifier": {"type": "string", "entry": "classifiers"},
                "defense": {"type": "string", "entry": "defenses"},
            },
        },
    },
    "float": {"type": "number"},
    "int": {"type": "integer"},
    "str": {"type": "string"},
    "bool": {"type": "boolean"},
    "None": {"type": "null"},
}
Epsilon = Annotated[float, "Epsilon"]  # a size of perturbation, pixels in [0, 1], e.g. 8/255
Fraction = Annotated[float, "Fraction"]  # a share
HeldShare = Annotated[float, "HeldShare"]  # a share of pixels that leaves some on both sides
Smoothing = Annotated[float, "Smoothing"]  # weight of the past in a moving average; 1 never moves
Positive = Annotated[float, "Positive"]  # a number > 0
NonNegative = Annotated[float, "NonNegative"]  # a number ≥ 0
Count = Annotated[int, "Count"]  # a whole number ≥ 1
Size = Annotated[int, "Size"]  # a whole number ≥ 0
Counts = Annotated[tuple[int, ...], "Counts"]  # a list of whole numbers ≥ 1
Steps = Annotated[tuple[int, ...], "Steps"]  # the same, none twice
OddCount = Annotated[int, "OddCount"]
Percent = Annotated[int, "Percent"]  # a whole number from 1 to 100
ClassifierName = Annotated[str, "ClassifierName"]
ClassifierNames = Annotated[tuple[str, ...], "ClassifierNames"]
AttackName = Annotated[str, "AttackName"]  # ``clean`` is one
AttackNames = Annotated[tuple[str, ...], "AttackNames"]
ThreatName = Annotated[str, "ThreatName"]
DefenseName = Annotated[str, "DefenseName"]
DefenseNames = Annotated[tuple[str, ...], "DefenseNames"]
RestorationName = Annotated[str, "RestorationName"]
RestorationNames = Annotated[tuple[str, ...], "RestorationNames"]
PriorName = Annotated[str, "PriorName"]  # as DIP
TandemName = Annotated[str, "TandemName"]  # as t-DIPs
Models = Annotated[dict, "Models"]  # {name: {classifier: …, defense: …}}
# What the pipeline itself passes, to constructors and to ``fit``: no settings.
SUPPLIED = ("seed",)
SUPPLIED_TO_FIT = ("seed", "classifier")

_types = (
    Draft202012Validator.TYPE_CHECKER.redefine(
        "number",
        lambda _, x: isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x),
    )
    .redefine("integer", lambda _, x: isinstance(x, int) and not isinstance(x, bool))
    .redefine("array", lambda _, x: isinstance(x, list | tuple))
)
# JSON schema as the configuration and a direct call are checked: numbers are finite, tuples lists.
Validator = validators.extend(Draft202012Validator, type_checker=_types)


def problems(schema: dict, value: object, place: str = "") -> Iterator[str]:
    """What is wrong with `value`: where, what was found, what is allowed."""
    for error in Validator(schema).iter_errors(value):
        path = ".".join(filter(None, [place, *map(str, error.absolute_path)])) or "top level"
        yield _explain(path, error)


def _explain(path: str, error) -> str:
    value = error.instance
    if error.validator == "additionalProperties":
        known = sorted(error.schema.get("properties", {}))
        unknown = ", ".join(sorted(str(key) for key in value if key not in known))
        return f"{path}: unknown key {unknown}; allowed are {', '.join(known) or 'none'}"
    if error.validator == "required":
        missing = [key for key in error.schema["required"] if key not in value]
        return f"{path}: lacks the key {', '.join(missing)}"
    hint = ""
    if error.validator == "maximum" and error.schema.get("exclusiveMinimum") == 0:
        hint = f" (pixels are in [0, 1]: for {value} of 255 write {value}/255)"
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        hint = (
            f" (to YAML that is a text; write {float(value):f} or, with a point and a sign, 1.0e-3)"
        )
    return f"{path}: found {value!r}, allowed is {allowed(error.schema)}{hint}"


def allowed(schema: dict) -> str:
    """What a schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(allowed(option) for option in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    if "$ref" in schema:
        return "entries, each under a name" if schema.get("minProperties") else "a mapping"
    words = {"integer": "a whole number", "number": "a number", "object": "a mapping"}
    words |= {"array": "a list", "string": "a text", "boolean": "true or false", "null": "null"}
    text = words.get(schema.get("type"), str(schema))
    if "not" in schema:
        text = text.replace("a whole", "an odd")
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema]
    if "pattern" in schema:
        limits.append(f"of the form {schema['pattern']}")
    for key, one, more in (("minItems", "entry", "entries"), ("minProperties", "key", "keys")):
        if least := schema.get(key):
            limits.append(f"of at least {least} {one if least == 1 else more}")
    if schema.get("minLength"):
        limits.append("that is not empty")
    if schema.get("uniqueItems"):
        limits.append("without repetition")
    each = f", each {allowed(schema['items'])}" if "items" in schema else ""
    return f"{text} {' and '.join(limits)}".strip() + each


OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}


def evaluate(expression: str, values: dict[str, object]) -> object:
    """Comparisons, arithmetic, ``len``, ``and`` and ``or`` of settings: text that cannot run code.

    Raises KeyError for a name that is not in `values`, TypeError for anything else in it.
    """

    def value(node: ast.expr) -> object:
        match node:
            case ast.Constant(value=constant):
                return constant
            case ast.Name(id=name):
                return values[name]
            case ast.Call(func=ast.Name(id="len"), args=[argument], keywords=[]):
                return len(value(argument))
            case ast.BoolOp(op=ast.And(), values=parts):
                return all(value(part) for part in parts)
            case ast.BoolOp(values=parts):
                return any(value(part) for part in parts)
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in OPERATORS:
                return OPERATORS[type(sign)](value(left), value(right))
            case ast.Compare(left=left, ops=[sign], comparators=[right]) if type(sign) in OPERATORS:
                return OPERATORS[type(sign)](value(left), value(right))
        raise TypeError(f"{expression!r} cannot be a condition of settings: {ast.unparse(node)}")

    return value(ast.parse(expression, mode="eval").body)


def names_in(condition: str) -> list[str]:
    """The settings in a condition."""
    parts = (part.id for part in ast.walk(ast.parse(condition)) if isinstance(part, ast.Name))
    return list(dict.fromkeys(name for name in parts if name != "len"))


def in_words(condition: str) -> str:
    """A condition as a message says it."""
    signs = {"==": "=", "!=": "≠", ">=": "≥", "<=": "≤", "*": "·"}
    signs |= {"is not None": "is given", "is None": "is not given"}
    for sign, words in signs.items():
        condition = condition.replace(sign, words)
    return condition


def conflicts(
    conditions: dict[str, str],
    only_if: dict[str, str],
    values: dict[str, object],
    given: Collection[str],
    place: str = "",
) -> Iterator[str]:
    """What is wrong with settings that are valid one by one; see the module's CONDITIONS, ONLY_IF.

    values : all settings, defaults included; a condition of one that is missing or null is not
        checked
    given : the names of those that somebody has set
    """

    def at(key: str) -> str:
        return f"{place}.{key}".lstrip(".")

    for condition, remedy in conditions.items():
        names = names_in(condition)
        known = all(values.get(name) is not None for name in names)
        if known and not evaluate(condition, values):
            key = next((name for name in names if name in given), names[0])
            others = [f"{name} {values[name]!r}" for name in names if name != key]
            beside = f" beside {', '.join(others)}" if others else ""
            allows = f"allowed is {in_words(condition)}: {remedy}"
            yield f"{at(key)}: found {values[key]!r}{beside}, {allows}"
    for key, condition in only_if.items():
        known = all(name in values for name in names_in(condition))
        if key in given and known and not evaluate(condition, values):
            yield (
                f"{at(key)}: found {values[key]!r}, which has an effect only if"
                f" {in_words(condition)}: remove it, or see to that"
            )


def schema_of(annotation: Any) -> dict | None:
    """The JSON schema of an annotation, None for one that no setting can have."""
    if get_origin(annotation) is Annotated:
        return TYPES.get(get_args(annotation)[1])
    if get_origin(annotation) is Literal:
        return {"enum": list(get_args(annotation))}
    if annotation is type(None):
        return TYPES["None"]
    if annotation in (float, int, str, bool):
        return TYPES[annotation.__name__]
    options = [schema_of(option) for option in get_args(annotation)]
    return {"anyOf": options} if options and None not in options else None


def check(name: str, annotations: dict[str, Any], values: dict[str, object]) -> None:
    """Raise ValueError that lists every value that is not what its annotation allows."""
    wrong = [
        problem
        for key, value in values.items()
        if (schema := schema_of(annotations.get(key)))
        for problem in problems(schema, value, key)
    ]
    if wrong:
        raise ValueError(f"{name}: {'; '.join(wrong)}")


@dataclass_transform(kw_only_default=True, eq_default=False)
class Settings:
    """A base class whose subclasses are keyword-only dataclasses, checked when they are made.

    A subclass that has more to do defines ``__post_init__`` and calls its parent's first. Lists
    become tuples. Raises ValueError that names every wrong setting with what is allowed.
    """

    CONDITIONS = {}
    ONLY_IF = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        dataclass(kw_only=True, eq=False, repr=False)(cls)

    def __post_init__(self) -> None:
        values = self.settings()
        check(type(self).__name__, get_type_hints(type(self), include_extras=True), values)
        # A default that somebody gives cannot be told from one that nobody does.
        given = {field.name for field in fields(self) if values[field.name] != field.default}
        if wrong := list(conflicts(self.CONDITIONS, self.ONLY_IF, values, given)):
            raise ValueError(f"{type(self).__name__}: {'; '.join(wrong)}")
        super().__init__()  # whatever else the class is, for instance a torch.nn.Module
        for key, value in values.items():
            if isinstance(value, list):
                setattr(self, key, tuple(value))

    def settings(self) -> dict[str, Any]:
        """The settings by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __repr__(self) -> str:
        text = ", ".join(f"{key}={value!r}" for key, value in self.settings().items())
        return f"{type(self).__name__}({text})"


def checked(function: Callable) -> Callable:
    """Check the keyword-only arguments of a function against their annotations at every call."""
    hints = get_type_hints(function, include_extras=True)
    keywords = {
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }

    @functools.wraps(function)
    def call(*args, **kwargs):
        given = {key: value for key, value in kwargs.items() if key in keywords}
        check(function.__qualname__, hints, given)
        return function(*args, **kwargs)

    return call
