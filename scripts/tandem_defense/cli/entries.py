"""Entries of a configuration as arguments: ``kind``, or ``kind:key=value,key=value``.

The kinds are those of ``pipeline/registry.py`` and classes of the user's own, ``file.py:Class``;
settings are checked as in a configuration. Needs no PyTorch.
"""

import json
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

from tandem_defense.files import arrays
from tandem_defense.files.manifest import OWN_WEIGHTS
from tandem_defense.pipeline import registry, schema
from tandem_defense.pipeline.configuration import with_fractions
from tandem_defense.settings import problems

COMMA = re.compile(r",(?![^\[]*\])")  # outside of a list
TRAINING = "training."  # before the keys that `fit` takes
BASE = "tandem_defense.classifiers.base"
OWN = "tandem_defense.classifiers.own:Own"


def classifier(text: str, weights: str | None, classes: int, quick: dict) -> dict:
    """A classifier as ``pipeline.classes`` takes it: class and settings, and what it gets beside.

    weights : the path of its checkpoint, as an argument of its own
    classes : how many there are in the data, for a classifier that is trained on them
    quick : values for what is not said of a ``small_cnn`` that is trained

    The keys beside are `weights`, the path or None, and `training`, the settings of its ``fit``,
    None for a classifier that is not trained here. ``file.py:function`` is any module of PyTorch's.

    Raises ValueError for what a configuration could not have.
    """
    kind, values = _parse("classifiers", text)
    if ":" in kind and not _is_classifier(kind):
        values = {"normalization": "none", "weights": ""} | values | {"module": kind}
        target = OWN
    else:
        target = registry.target("classifiers", kind)
    if weights is not None:
        if not weights.endswith(OWN_WEIGHTS):
            endings = ", ".join(OWN_WEIGHTS)
            raise ValueError(f"weights: found {weights}, expected a file that ends with {endings}")
        values["weights"] = weights
    if kind == "small_cnn" and "weights" not in values:
        values = quick | values
    known, fit = _read(schema.schema, text, target), _read(schema.fit, text, target)
    training = {k.removeprefix(TRAINING): v for k, v in values.items() if k.startswith(TRAINING)}
    settings = {k: v for k, v in values.items() if not k.startswith(TRAINING)}
    path = _file(text, settings)
    if path and _ours(path):
        return _stored(text, target, settings, path) | {"training": None}
    properties = known["properties"]
    if path and "weights" in properties:
        settings["weights"] = path
    elif path:
        raise ValueError(f"{text}: {path} is no file of weights that the pipeline wrote")
    trained = fit is not None and not path and bool(training or "weights" not in properties)
    if trained and "classes" in properties:
        settings.setdefault("classes", classes)
    if training and not trained:
        raise ValueError(f"{text}: has settings of a training, but is not trained here")
    _check(text, known, settings)
    _check(text, fit or {}, training)
    beside = {"weights": path, "training": training if trained else None}
    return {"class": target, "settings": settings} | beside


def plain(section: str, text: str) -> dict:
    """An attack or a defense as ``pipeline.classes`` takes it: class and settings; and `weights`.

    Raises ValueError for what a configuration could not have, and for a defense that has to be
    trained and has no weights.
    """
    kind, settings = _parse(section, text)
    target = registry.target(section, kind)
    known, fit = _read(schema.schema, text, target), _read(schema.fit, text, target)
    path = _file(text, settings)
    if path:
        return _stored(text, target, settings, path)
    _check(text, known, settings)
    if fit is not None:
        raise ValueError(
            f"{text}: a {kind} has to be trained: give weights=FILE, a file that a run of the"
            " pipeline has written to results/defenses"
        )
    return {"class": target, "settings": settings, "weights": None}


def _parse(section: str, text: str) -> tuple[str, dict]:
    """The kind and the values by key of an argument; a word without ``=`` is the architecture."""
    head, _, rest = text.partition(":")
    if head not in registry.SECTIONS[section]:
        name, _, rest = rest.partition(":")
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            known = ", ".join(registry.SECTIONS[section])
            raise ValueError(
                f"{section}: found {text!r}, allowed is one of {known}, or one of your own,"
                " file.py:Class"
            )
        head = f"{head}:{name}"
    values = {}
    for item in filter(None, COMMA.split(rest)):
        key, equals, value = item.partition("=")
        if not equals:
            key, value = "architecture", item
        if key in values:
            raise ValueError(f"{text}: {key} is there twice")
        values[key] = _value(value)
    return head, values


def _value(text: str) -> object:
    """JSON, a fraction, or a text."""
    try:
        return json.loads(text)
    except ValueError:
        return with_fractions(text)


def _read(function, text: str, target: str) -> dict | None:
    """What `function` of pipeline/schema.py finds in the source of a class."""
    try:
        return function(target)
    except (ImportError, OSError, SyntaxError, TypeError) as error:
        raise ValueError(f"{text} cannot be used: {error}") from error


def _is_classifier(kind: str) -> bool:
    """Whether "file.py:Class" is a subclass of ours, and not any module or a function."""
    try:
        return any(module == BASE for module, _ in schema.ancestry(kind))
    except (ImportError, OSError, SyntaxError):
        return False


def _check(text: str, known: dict, settings: dict) -> None:
    """Refuse settings that are not what is `known`; one value where a list of them is allowed."""
    for key, value in settings.items():
        if known.get("properties", {}).get(key, {}).get("type") == "array":
            settings[key] = value if isinstance(value, list) else [value]
    if wrong := list(problems(known, settings, text)):
        raise ValueError("; ".join(dict.fromkeys(wrong)))


def _file(text: str, settings: dict) -> str | None:
    """The path of the weights, taken out of the settings; None without, or where it is a name."""
    path = settings.get("weights")
    if not (isinstance(path, str) and path.endswith(OWN_WEIGHTS)):
        return None
    if not Path(path).is_file():
        raise ValueError(f"{text}: there is no file {path}")
    return settings.pop("weights")


def _ours(path: str) -> bool:
    """Whether a file of weights is one of the pipeline's."""
    try:
        with safe_open(path, "numpy") as file:
            return "tandem_defense" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _stored(text: str, target: str, settings: dict, path: str) -> dict:
    """The class and settings that a file of the pipeline's has weights for."""
    _, metadata = arrays.read(path, "weights")
    stored = metadata["settings"]
    if stored["class"] != target:
        raise ValueError(f"{text}: {path} has weights of {stored['class']}, expected {target}")
    for key, value in settings.items():
        if stored["settings"].get(key) != value:
            raise ValueError(
                f"{text}: {path} has weights for {stored['settings']}: leave out {key}={value}"
            )
    return {"class": target, "settings": stored["settings"], "weights": path}
