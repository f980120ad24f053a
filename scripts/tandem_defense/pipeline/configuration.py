"""Checking a configuration before any hours are spent: shape, settings, names, counts.

Needs no PyTorch. Every complaint names the key, what was found and what is allowed.
"""

import re
from collections.abc import Container, Iterator
from fractions import Fraction as Rational
from pathlib import Path

from tandem_defense.pipeline import demand, registry, schema, stale
from tandem_defense.pipeline.artifacts import PUBLISHED, shipped, unlike
from tandem_defense.pipeline.check_artifacts import artifacts
from tandem_defense.pipeline.check_entries import (
    classes_of,
    enough_classes,
    entry_of,
    settings_of,
    shape_of,
    unknown,
    without_maps,
)
from tandem_defense.pipeline.check_machine import DOWNLOADED, machine
from tandem_defense.pipeline.check_threats import threat_of, threats_of
from tandem_defense.pipeline.demand import CLEAN, Experiment
from tandem_defense.settings import problems

PARTS = ("classifiers", "attacks", "defenses")
UNREADABLE = (ImportError, OSError, SyntaxError, TypeError, ValueError)  # code of the user's
PLUGIN = re.compile(r"[^:]+(\.py)?:[A-Za-z_]\w*")


class ConfigurationError(ValueError):
    """The configuration cannot be run; the message lists every reason."""


def with_fractions(value: object) -> object:
    """The configuration with every ``"8/255"`` but a label replaced by its value."""
    if isinstance(value, dict):
        return {
            key: with_fractions(item) if key != "label" else item for key, item in value.items()
        }
    if isinstance(value, list):
        return [with_fractions(item) for item in value]
    if isinstance(value, str) and re.fullmatch(r"\s*\d+\s*/\s*[1-9]\d*\s*", value):
        return float(Rational(value.replace(" ", "")))
    return value


def rule_names(root: Path) -> list[str]:
    """The rules of the workflow in the checkout `root`, whose names no table or figure can have."""
    files = [root / "Snakefile", *(root / "rules").glob("*.smk")]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    return re.findall(r"^(?:use rule \w+ as|rule) (\w+)\b", text, re.MULTILINE)


def check(
    config: dict,
    shape: dict,
    downloads: Container[str] | None = None,
    root: Path | None = None,
) -> None:
    """Raise ConfigurationError unless `config` can be run.

    shape : the JSON schema
    downloads : the names in the manifest, if released checkpoints are to be looked up there
    root : the checkout, if names of rules and of published tables are to be looked up there
    """
    complaints = list(problems(shape, config))
    if not complaints:  # names and settings mean nothing before the shape is right
        complaints = list(_plugins(config)) or list(_helpers(config))
    if not complaints:
        for name, spec in config["experiments"].items():
            complaints += _experiment(f"experiments.{name}", Experiment(name, spec))
    if not complaints:  # which threats meet which defenses is asked of read-outs that are right
        for name, spec in config["experiments"].items():
            complaints += _threats(f"experiments.{name}", Experiment(name, spec))
    if not complaints:
        complaints = [*artifacts(config), *(_names_taken(config, root) if root else ())]
        if downloads is not None:
            complaints += [*_checkpoints(config, downloads), *_unused(config, downloads)]
    _raise(complaints)


def check_machine(config: dict, cluster: bool = False, files: bool = True) -> None:
    """Raise ConfigurationError unless a valid `config` can be run here.

    cluster : whether jobs run elsewhere, on machines that may have what this one lacks
    files : whether the files of a run are in the working directory, and in no storage
    """
    _raise(list(machine(config, cluster, files)))


def _raise(complaints: list[str]) -> None:
    if complaints:
        raise ConfigurationError(
            "the configuration cannot be run:\n" + "\n".join(f"  {line}" for line in complaints)
        )


def _entries(config: dict) -> Iterator[tuple[str, str, dict]]:
    """(key, section, entry) of everything that has a `kind`."""
    for name, spec in config["experiments"].items():
        yield f"experiments.{name}.dataset", "dataset", spec["dataset"]
        for section in PARTS:
            for key, entry in spec[section].items():
                yield f"experiments.{name}.{section}.{key}", section, entry
        for key, entry in spec.get("threats", {}).items():
            yield f"experiments.{name}.threats.{key}", "threats", entry
            if "attack" in entry:
                yield f"experiments.{name}.threats.{key}.attack", "attacks", entry["attack"]
    for section in ("tables", "figures"):
        for key, entry in config.get(section, {}).items():
            yield f"{section}.{key}", section, entry


def _plugins(config: dict) -> Iterator[str]:
    """Every `kind` is registered, or a class of the user's that is there and may be run."""
    for path, section, entry in _entries(config):
        kind, module = entry["kind"], str(entry.get("module", ""))
        if ":" in module and not config.get("plugins", False):
            yield _untrusted(f"{path}.module", module)
        elif module and not PLUGIN.fullmatch(module):
            yield f"{path}.module: found {module!r}, allowed is file.py:name or package.module:name"
        elif module:
            try:
                if not schema.has(module):
                    file, name = module.rsplit(":", 1)
                    yield f"{path}.module: {file} has no {name}"
            except UNREADABLE as error:
                yield f"{path}.module: {module} cannot be used: {error}"
        if ":" not in kind:
            if kind not in registry.SECTIONS[section]:
                known = ", ".join(registry.SECTIONS[section])
                yield (
                    f"{path}.kind: found {kind!r}, allowed is one of {known}, or a class of your"
                    " own, file.py:Class or package.module:Class"
                )
        elif not PLUGIN.fullmatch(kind):
            yield f"{path}.kind: found {kind!r}, allowed is file.py:Class or package.module:Class"
        elif not config.get("plugins", False):
            yield _untrusted(f"{path}.kind", kind)
        else:
            try:
                schema.schema(kind)
                if lines := schema.relative(kind.rsplit(":", 1)[0]):
                    yield (
                        f"{path}.kind: {kind} cannot be used: it imports from {lines[0]!r}, and a"
                        " file by itself is in no package: import what lies beside it by its name"
                    )
                for constant in schema.CONSTANTS[section]:
                    schema.constant(kind, constant)
            except UNREADABLE as error:
                yield f"{path}.kind: {kind} cannot be used: {error}"


def _helpers(config: dict) -> Iterator[str]:
    """Files of the user's in several folders do not import others of the same name."""
    seen: dict[str, Path] = {}
    for path, section, entry in _entries(config):
        file = demand.target(section, entry).rsplit(":", 1)[0]
        if not file.endswith(".py"):
            continue
        folder = Path(file).resolve().parent
        for helper in stale.beside(file):
            other = seen.setdefault(helper, folder)
            if other != folder:
                yield (
                    f"{path}.kind: {file} imports {helper} from its folder, and another file a"
                    f" {helper} from {other}: Python knows one module of a name; rename one of them"
                )


def _untrusted(path: str, target: str) -> str:
    return (
        f"{path}: {target} is code of your own, which this configuration would run: set"
        " `plugins: true` at its top level to say that you trust it (SECURITY.md)"
    )


def _experiment(path: str, experiment: Experiment) -> Iterator[str]:
    spec = experiment.spec
    yield from _dataset(f"{path}.dataset", spec)
    for key in ("chunks", "keep_restored"):
        if spec.get(key, 0) > spec["images"]:
            yield (
                f"{path}.{key}: found {spec[key]}, allowed are at most as many as images,"
                f" {spec['images']}"
            )
    if spec.get("keep_restored") and not experiment.restorations():
        yield f"{path}.keep_restored: no defense here restores images; remove the key"
    for section in PARTS:
        for name, entry in spec[section].items():
            yield from entry_of(f"{path}.{section}.{name}", section, entry)
            yield from shape_of(f"{path}.{section}.{name}", section, entry, experiment.shape())
    for section in (*PARTS, "threats"):
        yield from _labels(f"{path}.{section}", spec.get(section, {}))
    for name, entry in spec["attacks"].items():
        only = entry.get("only", {})
        yield from enough_classes(f"{path}.attacks.{name}.kind", entry, spec, only)
        for other in only.get("classifiers", ()):
            if other not in spec["classifiers"]:
                allowed = list(spec["classifiers"])
                yield f"{path}.attacks.{name}.only.classifiers: {unknown(other, allowed)}"
    for name, entry in spec["defenses"].items():
        yield from _demand(f"{path}.defenses.{name}", entry, spec)
    if spec["defenses"].get("none", {}).get("kind") != "none":
        yield f"{path}.defenses: lacks `none: {{kind: none}}`, the undefended classifier's row"
    elif "only" in spec["defenses"]["none"]:
        yield f"{path}.defenses.none.only: every classifier has this row; remove the key"
    classes = schema.constant(demand.target("dataset", spec["dataset"]), "CLASSES")
    yield from classes_of(path, spec, classes or 0)


def _labels(path: str, entries: dict) -> Iterator[str]:
    """No two entries look the same in a table."""
    names: dict[str, str] = {}
    for name, entry in entries.items():
        label = entry.get("label", name)
        if label in names:
            yield (
                f"{path}.{name}: found the label {label!r}, which {names[label]} has too: a reader"
                " could not tell them apart"
            )
        names[label] = name


def _threats(path: str, experiment: Experiment) -> Iterator[str]:
    for name in experiment.spec.get("threats", {}):
        yield from threat_of(f"{path}.threats.{name}", name, experiment)
    yield from threats_of(path, experiment.spec)


def _dataset(path: str, spec: dict) -> Iterator[str]:
    dataset = spec["dataset"]
    chosen = demand.target("dataset", dataset)
    yield from settings_of(path, "dataset", dataset)
    for split, most in (schema.constant(chosen, "AVAILABLE") or {}).items():
        if isinstance(dataset.get(split), int) and dataset[split] > most:
            yield f"{path}.{split}: found {dataset[split]}, the data has {most}"
    trained = [*spec["classifiers"].values(), *spec["defenses"].values()]
    none = schema.defaults(chosen).get("train") == 0 and "train" not in dataset
    if none and any("training" in entry for entry in trained):
        yield (
            f"{path}: lacks `train`, the number of images to train on; without it (train: 0) what"
            " has `training` would be trained on the images that it is evaluated on"
        )
    test = dataset.get("test", schema.defaults(chosen).get("test"))
    if isinstance(test, int) and spec["images"] > test:
        above = path.removesuffix(".dataset")
        yield f"{above}.images: found {spec['images']}, dataset.test has {test}"


def _demand(path: str, entry: dict, spec: dict) -> Iterator[str]:
    """`only` and the read-outs of a defense."""
    lines = {path: entry} | {
        f"{path}.readouts.{i}": line for i, line in enumerate(entry.get("readouts", []))
    }
    for place, line in lines.items():
        for section, allowed in (
            ("classifiers", list(spec["classifiers"])),
            ("attacks", [CLEAN, *spec["attacks"]]),
        ):
            for name in line.get("only", {}).get(section, ()):
                if name not in allowed:
                    yield f"{place}.only.{section}: {unknown(name, allowed)}"
    if (entry.get("training") or {}).get("guidance") == "features":
        for name in entry.get("only", {}).get("classifiers", spec["classifiers"]):
            if name in spec["classifiers"] and without_maps(spec["classifiers"][name]):
                yield f"{path}.training.guidance: found 'features', but {name} has no feature maps"
    if not demand.is_restoration(entry):
        for key in ("readouts", "every"):
            if key in entry:
                yield f"{path}.{key}: only a restoration has read-outs; remove the key"
        return
    chosen = demand.target("defenses", entry)
    known, defaults = schema.schema(chosen)["properties"], schema.defaults(chosen)
    if "iterations" not in defaults:
        yield f"{path}.kind: a restoration needs a setting `iterations` with a default"
        return
    if "readouts" in entry:
        for key in ("only", *demand.READOUTS):
            if key in entry:
                yield f"{path}.{key}: has no effect beside `readouts`: say it there"
    for place, line in lines.items():
        if "first_iterations" in line and "first_iterations" not in known:
            yield f"{place}.first_iterations: a {entry['kind']} has no first network"
            continue
        values = {k: line[k] for k in ("iterations", "first_iterations") if k in line}
        parts = {"type": "object", "properties": {k: known[k] for k in values}}
        yield from problems(parts, values, place)
        last, every = line.get("iterations", defaults["iterations"]), line.get("every", 1)
        if isinstance(last, int) and every > last:
            yield f"{place}.every: found {every}, allowed are at most iterations, {last}"


def _checkpoints(config: dict, downloads: Container[str]) -> Iterator[str]:
    for path, section, entry in _entries(config):
        if section not in ("classifiers", "defenses"):
            continue
        for file in demand.checkpoint(section, entry):
            if file not in downloads and not demand.own_weights(entry):
                yield (
                    f"{path}.weights: found {entry['weights']!r}, but resources/downloads.toml has"
                    f" no {file!r}; add its URL and hash there"
                )


def _unused(config: dict, downloads: Container[str]) -> Iterator[str]:
    """Keys at the top level that change nothing of this configuration."""
    experiments = config["experiments"].values()
    if "keep_adversarial" in config and not any(
        spec["attacks"] or spec.get("threats") for spec in experiments
    ):
        yield "keep_adversarial: nothing is attacked; remove the key"
    folders = [str(spec["dataset"].get("folder", "")) for spec in experiments]
    downloaded = any(folder.startswith(DOWNLOADED) for folder in folders) or any(
        file in downloads
        for _, section, entry in _entries(config)
        if section in ("classifiers", "defenses")
        for file in demand.checkpoint(section, entry)
    )
    if "offline" in config and not downloaded:
        yield "offline: nothing is downloaded; remove the key"


# --- artifacts ----------------------------------------------------------------------------------


def _names_taken(config: dict, root: Path) -> Iterator[str]:
    """No artifact has the name of a rule; published numbers are there."""
    taken = {*rule_names(root)}
    known = sorted(file.stem for file in (root / PUBLISHED).glob("*.csv"))
    for section in ("tables", "figures"):
        for name, entry in config.get(section, {}).items():
            path = f"{section}.{name}"
            if name in taken:
                yield f"{path}: the name is taken by a rule or a table; choose another"
            taken.add(name)
            table = shipped(entry)
            if table and table not in known:
                yield f"{path}.published: {unknown(table, known)}, or a .csv of yours"
            elif table and (why := unlike(section, entry, root / PUBLISHED / f"{table}.csv")):
                yield f"{path}.published: {why}"
