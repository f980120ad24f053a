"""One declaration of a setting: a class's annotated attributes are its keys in the configuration.

    class Median(Defense):
        kernel: Count = 3

An annotation says what a value may be, the default is the default. A class that states settings is
a keyword-only dataclass: ``Median(kernel=5)`` is checked as the configuration is. Subclasses
inherit the settings and state only their own. ``pipeline/schema.py`` reads the same declarations
from the source text, so that a configuration is checked without importing PyTorch.

A class that is trained has a method ``fit``, decorated with :func:`checked`; its keyword-only
parameters are the settings of the entry's key ``training``.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterator
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
    "Smoothing": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
    "Positive": {"type": "number", "exclusiveMinimum": 0},
    "NonNegative": {"type": "number", "minimum": 0},
    "Count": {"type": "integer", "minimum": 1},
    "Size": {"type": "integer", "minimum": 0},
    "Counts": {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 1}},
    "OddCount": {"type": "integer", "minimum": 1, "not": {"multipleOf": 2}},
    "Percent": {"type": "integer", "minimum": 1, "maximum": 100},
    # Names of an experiment's entries, for tables and figures.
    "ClassifierName": {"type": "string", "entry": "classifiers"},
    "ClassifierNames": {
        "type": "array",
        "minItems": 1,
        "items": {"type": "string", "entry": "classifiers"},
    },
    "AttackName": {"type": "string", "entry": "attacks"},
    "AttackNames": {
        "type": "array",
        "minItems": 1,
        "items": {"type": "string", "entry": "attacks"},
    },
    "DefenseName": {"type": "string", "entry": "defenses"},
    "DefenseNames": {
        "type": "array",
        "minItems": 1,
        "items": {"type": "string", "entry": "defenses"},
    },
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
Smoothing = Annotated[float, "Smoothing"]  # weight of the past in a moving average; 1 never moves
Positive = Annotated[float, "Positive"]  # a number > 0
NonNegative = Annotated[float, "NonNegative"]  # a number ≥ 0
Count = Annotated[int, "Count"]  # a whole number ≥ 1
Size = Annotated[int, "Size"]  # a whole number ≥ 0
Counts = Annotated[tuple[int, ...], "Counts"]  # a list of whole numbers ≥ 1
OddCount = Annotated[int, "OddCount"]
Percent = Annotated[int, "Percent"]  # a whole number from 1 to 100
ClassifierName = Annotated[str, "ClassifierName"]
ClassifierNames = Annotated[tuple[str, ...], "ClassifierNames"]
AttackName = Annotated[str, "AttackName"]  # ``clean`` is one
AttackNames = Annotated[tuple[str, ...], "AttackNames"]
DefenseName = Annotated[str, "DefenseName"]
DefenseNames = Annotated[tuple[str, ...], "DefenseNames"]
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
        unknown = ", ".join(sorted(set(value) - set(known)))
        return f"{path}: unknown key {unknown}; allowed are {', '.join(known) or 'none'}"
    if error.validator == "required":
        missing = [key for key in error.schema["required"] if key not in value]
        return f"{path}: lacks the key {', '.join(missing)}"
    hint = ""
    if error.validator == "maximum" and error.schema.get("exclusiveMinimum") == 0:
        hint = f" (pixels are in [0, 1]: for {value} of 255 write {value}/255)"
    return f"{path}: found {value!r}, allowed is {allowed(error.schema)}{hint}"


def allowed(schema: dict) -> str:
    """What a schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(allowed(option) for option in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    words = {"integer": "a whole number", "number": "a number", "object": "a mapping"}
    words |= {"array": "a list", "string": "a text", "boolean": "true or false", "null": "null"}
    text = words.get(schema.get("type"), str(schema))
    if "not" in schema:
        text = text.replace("a whole", "an odd")
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema]
    if "pattern" in schema:
        limits.append(f"of the form {schema['pattern']}")
    if schema.get("minItems"):
        limits.append(f"of at least {schema['minItems']}")
    each = f", each {allowed(schema['items'])}" if "items" in schema else ""
    return f"{text} {' and '.join(limits)}".strip() + each


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

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        dataclass(kw_only=True, eq=False, repr=False)(cls)

    def __post_init__(self) -> None:
        values = self.settings()
        check(type(self).__name__, get_type_hints(type(self), include_extras=True), values)
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
