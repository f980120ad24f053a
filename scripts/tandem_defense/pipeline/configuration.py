"""Checking a configuration before any hours are spent: shape, settings, names, counts.

Needs no PyTorch. Every complaint names the key, what was found and what is allowed.
"""

import os
import re
import shutil
from collections.abc import Container, Iterator
from difflib import get_close_matches
from fractions import Fraction as Rational
from glob import glob
from itertools import product
from pathlib import Path

from tandem_defense.datasets import listing
from tandem_defense.pipeline import demand, registry, schema
from tandem_defense.pipeline.demand import CLEAN, Artifact, Experiment
from tandem_defense.settings import conflicts, problems

PARTS = ("classifiers", "attacks", "defenses")
DOWNLOADED = "results/downloads/"  # datasets' folders that the pipeline fills
PLUGIN = re.compile(r"[^:]+(\.py)?:[A-Za-z_]\w*")


class ConfigurationError(ValueError):
    """The configuration cannot be run; the message lists every reason."""


def with_fractions(value: object) -> object:
    """The configuration with every ``"8/255"`` replaced by its value."""
    if isinstance(value, dict):
        return {key: with_fractions(item) for key, item in value.items()}
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
        complaints = list(_plugins(config))
    if not complaints:
        for name, spec in config["experiments"].items():
            complaints += _experiment(f"experiments.{name}", Experiment(name, spec))
    if not complaints:
        complaints = [*_artifacts(config), *(_names_taken(config, root) if root else ())]
        if downloads is not None:
            complaints += [*_checkpoints(config, downloads), *_unused(config, downloads)]
    _raise(complaints)


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
    for section in ("tables", "figures"):
        for key, entry in config.get(section, {}).items():
            yield f"{section}.{key}", section, entry


def _plugins(config: dict) -> Iterator[str]:
    """Every `kind` is registered, or a class of the user's that is there and may be run."""
    for path, section, entry in _entries(config):
        kind, module = entry["kind"], str(entry.get("module", ""))
        if ":" in module and not config.get("plugins", False):
            yield _untrusted(f"{path}.module", module)
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
            except (ImportError, OSError, SyntaxError, TypeError) as error:
                yield f"{path}.kind: {kind} cannot be used: {error}"


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
            yield from _entry(f"{path}.{section}.{name}", section, entry)
            yield from _shape(f"{path}.{section}.{name}", section, entry, experiment.shape())
    for name, entry in spec["defenses"].items():
        yield from _demand(f"{path}.defenses.{name}", entry, spec)
    if spec["defenses"].get("none", {}).get("kind") != "none":
        yield f"{path}.defenses: lacks `none: {{kind: none}}`, the undefended classifier's row"
    classes = schema.constant(demand.target("dataset", spec["dataset"]), "CLASSES")
    yield from _classes(path, spec, classes or 0)


def _dataset(path: str, spec: dict) -> Iterator[str]:
    dataset = spec["dataset"]
    chosen = demand.target("dataset", dataset)
    yield from _settings(path, "dataset", dataset)
    for split, most in (schema.constant(chosen, "AVAILABLE") or {}).items():
        if isinstance(dataset.get(split), int) and dataset[split] > most:
            yield f"{path}.{split}: found {dataset[split]}, the data has {most}"
    test = dataset.get("test", schema.defaults(chosen).get("test"))
    if isinstance(test, int) and spec["images"] > test:
        above = path.removesuffix(".dataset")
        yield f"{above}.images: found {spec['images']}, dataset.test has {test}"


def _classes(path: str, spec: dict, count: int) -> Iterator[str]:
    """Every classifier that says how many classes it has, has as many as the data."""
    for name, entry in spec["classifiers"].items():
        have = _value("classifiers", entry, "classes")
        if isinstance(have, int) and have < count:
            yield (
                f"{path}.classifiers.{name}.classes: found {have}, allowed are at least as many as"
                f" the data has, {count}"
            )


def _shape(path: str, section: str, entry: dict, shape: list[int] | None) -> Iterator[str]:
    """What our classifiers and defenses say of the images is so."""
    if shape is None or not demand.target(section, entry).startswith("tandem_defense."):
        return
    for key, value in (("channels", shape[0]), ("size", shape[1])):
        if (have := _value(section, entry, key)) not in (None, value):
            yield f"{path}.{key}: found {have}, allowed is that of the images, {value}"


def _value(section: str, entry: dict, key: str) -> object:
    """A setting of an entry, or its default; None if the class has no such setting."""
    return entry.get(key, schema.defaults(demand.target(section, entry)).get(key))


def _settings(path: str, section: str, entry: dict) -> Iterator[str]:
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


def _entry(path: str, section: str, entry: dict) -> Iterator[str]:
    """Settings, and training or weights."""
    chosen, kind = demand.target(section, entry), entry["kind"]
    known = schema.schema(chosen)
    yield from _settings(path, section, entry)
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
    if isinstance(entry.get("weights"), str) and not demand.own_weights(entry):
        defaults = schema.defaults(chosen)
        for key in schema.constant(chosen, "RELEASED") or ():
            found = entry.get(key, defaults[key])
            if (tuple(found) if isinstance(found, list) else found) != defaults[key]:
                yield f"{path}.{key}: found {found}, the released weights have {defaults[key]}"


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


def _without_maps(entry: dict) -> bool:
    """Whether a classifier is known to have no feature maps."""
    chosen = demand.target("classifiers", entry)
    if pattern := schema.constant(chosen, "MAPS"):
        return not re.match(pattern, entry["architecture"])
    if chosen != registry.CLASSIFIERS["own"]:
        return schema.defines(chosen, "maps") is False
    try:
        return False in [schema.defines(entry["module"], name) for name in ("maps", "head")]
    except ImportError:  # a function that makes the network
        return False


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
                    yield f"{place}.only.{section}: {_unknown(name, allowed)}"
    if (entry.get("training") or {}).get("guidance") == "features":
        for name in entry.get("only", {}).get("classifiers", spec["classifiers"]):
            if name in spec["classifiers"] and _without_maps(spec["classifiers"][name]):
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


def _unknown(name: str, allowed: list[str]) -> str:
    return f"found {name!r}, allowed is one of {', '.join(allowed)}"


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
    if "keep_adversarial" in config and not any(spec["attacks"] for spec in experiments):
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
    known = sorted(file.stem for file in (root / demand.PUBLISHED).glob("*.csv"))
    for section in ("tables", "figures"):
        for name, entry in config.get(section, {}).items():
            path = f"{section}.{name}"
            if name in taken:
                yield f"{path}: the name is taken by a rule or a table; choose another"
            taken.add(name)
            shipped = demand.shipped(entry)
            if shipped and shipped not in known:
                yield f"{path}.published: {_unknown(shipped, known)}, or a .csv of yours"


def _artifacts(config: dict) -> Iterator[str]:
    """Tables and figures: their settings, the names they refer to, and that these are computed."""
    for section in ("tables", "figures"):
        for name, entry in config.get(section, {}).items():
            path = f"{section}.{name}"
            complaints = [*_settings(path, section, entry)]
            if not complaints and entry["experiment"] not in config["experiments"]:
                names = list(config["experiments"])
                complaints = [f"{path}.experiment: {_unknown(entry['experiment'], names)}"]
            if not complaints:
                spec = config["experiments"][entry["experiment"]]
                artifact = Artifact(section, name, entry, Experiment(entry["experiment"], spec))
                complaints = [*_references(path, artifact)]
            yield from complaints or [*_computed(path, artifact), *_pictures(path, artifact)]


def _references(path: str, artifact: Artifact) -> Iterator[str]:
    """Every name of a classifier, attack or defense is in the experiment, and of the right sort."""
    entry, experiment = artifact.entry, artifact.experiment
    known = schema.schema(demand.target(artifact.section, entry))
    for key, option, value in names(known, demand.settings(artifact.section, entry)):
        section = option["entry"]
        place = f"experiments.{experiment.name}.{section}"
        allowed = list(experiment[section])
        if section == "attacks" and "attacked" not in artifact.needs:
            allowed = experiment.attacks()
        if value not in allowed:
            yield f"{path}.{key}: {_unknown(value, allowed)} ({place})"
        elif "networks" in option:
            sort = {1: "DIP", 2: "t-DIPs"}
            sort = " or ".join(sort[n] for n in option["networks"])
            fits = [
                n for n in allowed if demand.networks(experiment[section][n]) in option["networks"]
            ]
            if value not in fits:
                yield (
                    f"{path}.{key}: found {value!r}, allowed is a restoration as {sort}:"
                    f" {', '.join(fits) or 'none'} ({place})"
                )


def names(known: dict, value: object, key: str = "") -> Iterator[tuple[str, dict, str]]:
    """(key, schema, name) for every value that a schema marks as the name of an entry."""
    for option in known.get("anyOf", [known]):
        if "entry" in option and isinstance(value, str):
            yield key, option, value
        elif isinstance(value, list | tuple) and "items" in option:
            for item in value:
                yield from names(option["items"], item, key)
        elif isinstance(value, dict):
            for name, item in value.items():
                part = option.get("properties", {}).get(name, option.get("additionalProperties"))
                if isinstance(part, dict):
                    yield from names(part, item, f"{key}.{name}".lstrip("."))


def _computed(path: str, artifact: Artifact) -> Iterator[str]:
    """The read-outs that an artifact shows, its experiment computes."""
    entry, experiment = artifact.entry, artifact.experiment
    known = schema.schema(demand.target(artifact.section, entry))["properties"]
    every_defense = list(experiment["defenses"])
    if shown := list(_of(entry, "defense", "defenses")):
        classifiers, attacks = list(_of(entry, "classifier")), list(_of(entry, "attack", "attacks"))
        keys = {key: key for key in demand.READOUTS}
        yield from _readouts(path, artifact, shown, classifiers, attacks, keys, whole=False)
        if "restored" in artifact.needs and "first_iterations" not in entry:
            yield from (
                f"{path}: lacks the key first_iterations, which {name} needs"
                for name in shown
                if demand.networks(experiment["defenses"][name]) == 2
            )
    elif "omit" in known:
        shown = [name for name in every_defense if name not in entry.get("omit", ())]
        classifiers = entry.get("classifiers", list(experiment["classifiers"]))
        attacks = entry.get("attacks", experiment.attacks())
        keys = {key: key for key in ("iterations", "first_iterations")}
        yield from _readouts(path, artifact, shown, classifiers, attacks, keys, whole=True)
    if "curve_classifier" in entry:
        shown = [entry["dip"], entry["tdips"]]
        keys = {
            "iterations": "last",
            "first_iterations": "curve_first_iterations",
            "every": "every",
        }
        classifiers, attacks = [entry["curve_classifier"]], entry["curve_attacks"]
        yield from _readouts(path, artifact, shown, classifiers, attacks, keys, whole=False)
    for name, model in entry.get("models", {}).items() if "models" in known else ():
        if demand.networks(experiment["defenses"][model.get("defense", "none")]):
            for attack in entry.get("attacks", list(experiment["attacks"])):
                have = experiment.computed(model["defense"], model["classifier"], attack)
                if have and len(have["iterations"]) * len(have["first_iterations"] or [0]) > 1:
                    yield (
                        f"{path}.models.{name}.defense: {model['defense']} has the read-outs {have}"
                        f" on {attack}, and a model of this table shows one: ask for one"
                    )
                    break


def _readouts(
    path: str,
    artifact: Artifact,
    defenses: list[str],
    classifiers: list[str],
    attacks: list[str],
    keys: dict[str, str],
    whole: bool,
) -> Iterator[str]:
    """The read-outs under an entry's `keys` are computed wherever they are shown, and are shown.

    whole : whether the artifact shows what the experiment computes of these cells, not all of them
    """
    entry, experiment = artifact.entry, artifact.experiment
    last, every = (entry.get(keys.get(key)) for key in ("iterations", "every"))
    asked = {
        "iterations": list(range(every, last + 1, every))
        if last and every
        else [last] * bool(last),
        "first_iterations": list(_of(entry, keys["first_iterations"])),
    }
    networks = {name: demand.networks(experiment["defenses"][name]) for name in defenses}
    for least, key in enumerate(asked, 1):
        if asked[key] and max(networks.values(), default=0) < least:
            yield (
                f"{path}.{keys[key]}: has no effect on {', '.join(defenses)}: remove it, or show a"
                f" restoration as {'t-DIPs' if least == 2 else 'DIP or t-DIPs'}"
            )
    for defense in (name for name in defenses if networks[name]):
        place = f"experiments.{experiment.name}.defenses.{defense}"
        cells = {}
        for classifier, attack in product(classifiers, attacks):
            if have := experiment.computed(defense, classifier, attack):
                cells[f"{attack} of {classifier}"] = have
            elif not whole:
                yield f"{path}: {place} is not run on {attack} of {classifier}: see its `only`"
        for key, steps in asked.items():
            for on, have in cells.items():
                if have[key] and (missing := [n for n in steps if n not in have[key]]):
                    yield (
                        f"{path}.{keys[key]}: {place} has no read-out {missing[0]} on {on}, but"
                        f" {have[key]}"
                    )
                    break
            common = (
                set.intersection(*(set(have[key]) for have in cells.values())) if cells else {0}
            )
            if whole and not steps and not common and key == "iterations":
                yield f"{path}: {place} has no read-out that all cells share: show fewer of them"


def _pictures(path: str, artifact: Artifact) -> Iterator[str]:
    """As many images as a figure shows are there, and feature maps where it draws them."""
    entry, spec = artifact.entry, artifact.experiment.spec
    place, chosen = (
        f"experiments.{artifact.experiment.name}",
        demand.target(artifact.section, entry),
    )
    if schema.constant(chosen, "MAPS") and _without_maps(spec["classifiers"][entry["classifier"]]):
        yield f"{path}.classifier: {entry['classifier']} has no feature maps, which this draws"
    count = _value(artifact.section, entry, "images")
    if artifact.section != "figures" or not isinstance(count, int):
        return
    key = "keep_restored" if "restored" in artifact.needs else "images"
    most, chunk = spec.get(key, 0), spec["images"] // spec["chunks"]
    if count > most:
        yield f"{path}.images: found {count}, {place}.{key} is {most}"
    elif "attacked" in artifact.needs and count > chunk:
        yield (
            f"{path}.images: found {count}, allowed are at most {chunk}: a figure shows images of"
            f" the first chunk, and {place} has {spec['chunks']} chunks; lower one of the two"
        )


def _of(entry: dict, *keys: str) -> Iterator:
    """The values under some keys, each one value or a list of values."""
    for key in keys:
        value = entry.get(key, [])
        yield from value if isinstance(value, list) else [value]


# --- what this machine has --------------------------------------------------------------------


def check_machine(config: dict, cluster: bool = False) -> None:
    """Raise ConfigurationError unless this machine has what a valid `config` needs beside the code.

    cluster : whether jobs run elsewhere, on machines that may have a GPU
    """
    complaints = []
    if "offline" in config and not Path(config["offline"]).is_dir():
        complaints.append(f"offline: found {config['offline']!r}, allowed is a folder that exists")
    for name, spec in config["experiments"].items():
        path = f"experiments.{name}"
        complaints += _contents(path, spec)
        for key, entry in spec["defenses"].items():
            if entry.get("precision") == "tf32" and not cluster and not has_gpu():
                complaints.append(
                    f"{path}.defenses.{key}.precision: found 'tf32', which needs an NVIDIA GPU, and"
                    " this machine shows none: choose float32, or run it on a cluster"
                )
    _raise(complaints)


def has_gpu() -> bool:
    """Whether this machine shows a GPU of NVIDIA's to this process."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    return visible.strip() not in ("", "-1") and bool(
        glob("/dev/nvidia[0-9]*") or glob("/dev/dxg") or shutil.which("nvidia-smi.exe")
    )


def _contents(path: str, spec: dict) -> Iterator[str]:
    """Pictures of the user's own: there are enough, and a classifier has all their classes."""
    chosen = demand.target("dataset", spec["dataset"])
    if chosen != registry.DATASETS["folder"]:
        return
    settings = schema.defaults(chosen) | demand.settings("dataset", spec["dataset"])
    folder, count = settings["folder"], settings["classes"]
    wanted = {split: settings[split] for split in listing.SPLITS}
    try:
        pictures = listing.pictures(folder, settings["labels"])
        classes = listing.classes(folder, pictures, count)
        listing.drawn(folder, pictures, wanted, settings["split_seed"], count)
    except ValueError as error:
        yield f"{path}.dataset: {error}"
        return
    yield from _classes(path, spec, len(classes))
