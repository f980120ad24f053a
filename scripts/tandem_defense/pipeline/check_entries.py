"""Complaints about one entry of a configuration: its settings, training, what it says of the data.

Needs no PyTorch. Every complaint names the key, what was found and what is allowed.
"""

import re
from collections.abc import Iterator
from difflib import get_close_matches

from tandem_defense.pipeline import demand, registry, schema
from tandem_defense.settings import conflicts, problems

COARSE = 128  # pixels that `coarse` needs: restoration/coarse.py, which imports PyTorch


def entry_of(path: str, section: str, entry: dict) -> Iterator[str]:
    """Settings, and training or weights."""
    chosen, kind = demand.target(section, entry), entry["kind"]
    known = schema.schema(chosen)
    yield from settings_of(path, section, entry)
    yield from _architecture(path, chosen, entry.get("architecture"))
    fit = schema.fit(chosen)
    if "training" in entry and fit is None:
        yield f"{path}.training: a {kind} is not trained; remove the key"
    elif fit and "training" in entry:
        yield from problems(fit, entry["training"] or {}, f"{path}.training")
    if fit and ("training" in entry) == (entry.get("weights") is not None):
        released = "weights" in known["properties"]
        key = "either `training` (may be {}) or `weights`" if released else "`training` (may be {})"
        yield f"{path}: give {key}, a {kind} must be trained"
    if section == "classifiers" and not fit and entry.get("weights") is None:
        yield (
            f"{path}.kind: nothing makes the weights of a {kind}, which has neither a method `fit`"
            " nor a setting `weights` with a value"
        )
    if isinstance(entry.get("weights"), str) and not demand.own_weights(entry):
        defaults = schema.defaults(chosen)
        for key in schema.constant(chosen, "RELEASED") or ():
            found = entry.get(key, defaults[key])
            if (tuple(found) if isinstance(found, list) else found) != defaults[key]:
                yield f"{path}.{key}: found {found}, the released weights have {defaults[key]}"


def settings_of(path: str, section: str, entry: dict) -> Iterator[str]:
    """The settings of an entry, one by one and then together."""
    chosen, given = demand.target(section, entry), demand.settings(section, entry)
    wrong = list(problems(schema.schema(chosen), given, path))
    if not wrong:
        try:
            together = [schema.constant(chosen, name) or {} for name in ("CONDITIONS", "ONLY_IF")]
            wrong = list(conflicts(*together, schema.defaults(chosen) | given, given, path))
        except (SyntaxError, TypeError, ValueError) as error:
            wrong = [f"{path}: {entry['kind']} cannot be used: its conditions: {error}"]
    yield from wrong


def _architecture(path: str, chosen: str, name: object) -> Iterator[str]:
    """The name of a network is one of the package that has them."""
    package = schema.constant(chosen, "ARCHITECTURES")
    known = schema.architectures(package) if package else None
    if not known or not isinstance(name, str):
        return
    network = name.partition(".")[0] if package == "timm" else name  # after it the weights' tag
    if network not in known:
        similar = ", ".join(get_close_matches(network, known)) or "not there"
        yield (
            f"{path}.architecture: found {name!r}, allowed is a name of {package}'s; similar names"
            f" are {similar}"
        )


def shape_of(path: str, section: str, entry: dict, shape: list[int] | None) -> Iterator[str]:
    """What our classifiers and defenses say of the images is so."""
    if shape is None or not demand.target(section, entry).startswith("tandem_defense."):
        return
    for key, value in (("channels", shape[0]), ("size", shape[1])):
        if (have := value_of(section, entry, key)) not in (None, value):
            yield f"{path}.{key}: found {have}, allowed is that of the images, {value}"
    if value_of(section, entry, "coarse") and min(shape[1:]) < COARSE:
        yield (
            f"{path}.coarse: needs images of at least {COARSE} × {COARSE} pixels, found"
            f" {shape[1]} × {shape[2]}; remove the key"
        )


def enough_classes(path: str, entry: dict, spec: dict, only: dict) -> Iterator[str]:
    """Every classifier of `only` has as many classes as an attack's loss takes."""
    least = schema.constant(demand.target("attacks", entry), "LEAST_CLASSES") or 0
    for name, have in with_fewer_classes(spec, least):
        if name in only.get("classifiers", [name]):
            yield (
                f"{path}: {entry['kind']} needs classifiers of at least {least} classes, {name} has"
                f" {have}: take pgd with restarts, and square"
            )


def classes_of(path: str, spec: dict, count: int) -> Iterator[str]:
    """Every classifier that says how many classes it has, has as many as the data."""
    for name, have in with_fewer_classes(spec, count):
        yield (
            f"{path}.classifiers.{name}.classes: found {have}, allowed are at least as many as"
            f" the data has, {count}"
        )


def with_fewer_classes(spec: dict, least: int) -> Iterator[tuple[str, int]]:
    """The classifiers that say how many classes they have, with fewer than `least`."""
    for name, entry in spec["classifiers"].items():
        have = value_of("classifiers", entry, "classes")
        if isinstance(have, int) and have < least:
            yield name, have


def without_maps(entry: dict) -> bool:
    """Whether a classifier is known to have no feature maps."""
    chosen = demand.target("classifiers", entry)
    if pattern := schema.constant(chosen, "MAPS"):
        return not re.match(pattern, str(entry.get("architecture")))
    if chosen != registry.CLASSIFIERS["own"]:
        return schema.defines(chosen, "maps") is False
    try:
        return False in [schema.defines(entry["module"], name) for name in ("maps", "head")]
    except (ImportError, KeyError, ValueError):  # a function that makes it, or named elsewhere
        return False


def value_of(section: str, entry: dict, key: str) -> object:
    """A setting of an entry, or its default; None if the class has no such setting."""
    return entry.get(key, schema.defaults(demand.target(section, entry)).get(key))


def unknown(name: str, allowed: list[str]) -> str:
    """The complaint about a name that is none of those allowed."""
    return f"found {name!r}, allowed is one of {', '.join(allowed)}"
