"""Checking a configuration before any hours are spent: shape, settings, names, counts.

Torch-free. Every complaint names the key, what was found and what is allowed.
"""

import re
from collections.abc import Container, Iterator
from fractions import Fraction as Rational

from tandem_defense import registry, settings

# Keys of an entry that are not settings of its class.
DESCRIPTIVE = {"kind", "label", "training", "control"}
# What `weights` end with if they are a file of the user's own instead of a released checkpoint.
OWN_WEIGHTS = (".pth", ".safetensors")
REGISTRIES = {
    "classifiers": registry.CLASSIFIERS,
    "attacks": registry.ATTACKS,
    "defenses": registry.DEFENSES | registry.RESTORATIONS,
}


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


def check(config: dict, schema: dict, downloads: Container[str] | None = None) -> None:
    """Raise ConfigurationError unless `config` can be run.

    schema : the JSON schema
    downloads : the names in the manifest, if released checkpoints are to be looked up there
    """
    problems = list(_against(schema, config, ""))
    if not problems:  # names and settings mean nothing before the shape is right
        for name, experiment in config["experiments"].items():
            problems += _experiment(f"experiments.{name}", experiment)
        problems += _artifacts(config)
    if not problems and downloads is not None:
        problems += _checkpoints(config, downloads)
    if problems:
        raise ConfigurationError(
            "the configuration cannot be run:\n" + "\n".join(f"  {p}" for p in problems)
        )


def target(section: str, entry: dict) -> str:
    """The registry's value for an entry of ``classifiers``, ``attacks`` or ``defenses``."""
    return REGISTRIES[section][entry["kind"]]


def entry_settings(entry: dict) -> dict:
    """What an entry passes to its class."""
    return {key: value for key, value in entry.items() if key not in DESCRIPTIVE}


def own_weights(entry: dict) -> bool:
    """Whether the weights that `entry` asks for are a file of the user's own."""
    return entry["weights"].endswith(OWN_WEIGHTS)


def checkpoint(section: str, entry: dict) -> list[str]:
    """The files whose weights `entry` asks for; none if it is trained.

    Names in the manifest, or a path: `weights` that end as a file does are the user's own.
    """
    if entry.get("weights") is None:
        return []
    if own_weights(entry):
        return [entry["weights"]]
    patterns = settings.constant(target(section, entry), "CHECKPOINT")
    return [pattern.format(**entry) for pattern in patterns]


def _checkpoints(config: dict, downloads: Container[str]) -> Iterator[str]:
    for name, experiment in config["experiments"].items():
        for section in ("classifiers", "defenses"):
            for key, entry in experiment[section].items():
                for file in checkpoint(section, entry):
                    if file not in downloads and not own_weights(entry):
                        yield (
                            f"experiments.{name}.{section}.{key}.weights: found"
                            f" {entry['weights']!r}, but resources/downloads.toml has no"
                            f" {file!r}; add its URL and hash there"
                        )


def _against(schema: dict, value: object, where: str) -> Iterator[str]:
    from jsonschema import Draft202012Validator  # comes with Snakemake; jobs do without

    for error in Draft202012Validator(schema).iter_errors(value):
        path = ".".join(filter(None, [where, *map(str, error.absolute_path)])) or "top level"
        yield _explain(path, error)


def _explain(path: str, error) -> str:
    found = error.instance
    if error.validator == "additionalProperties":
        allowed = sorted(error.schema.get("properties", {}))
        unknown = sorted(set(found) - set(allowed))
        return f"{path}: unknown key {', '.join(unknown)}; allowed are {', '.join(allowed)}"
    if error.validator == "required":
        missing = [key for key in error.schema["required"] if key not in found]
        return f"{path}: lacks the key {', '.join(missing)}"
    hint = ""
    if error.validator == "maximum" and error.schema.get("exclusiveMinimum") == 0:
        hint = f" (pixels are in [0, 1]: for {found} of 255 write {found}/255)"
    return f"{path}: found {found!r}, allowed is {_allowed(error.schema)}{hint}"


def _allowed(schema: dict) -> str:
    if "anyOf" in schema:
        return " or ".join(_allowed(option) for option in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    words = {"integer": "a whole number", "number": "a number", "object": "a mapping"}
    words |= {"array": "a list", "string": "a text", "boolean": "true or false", "null": "null"}
    text = words.get(schema.get("type"), str(schema))
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤"}
    limits = [f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema]
    if "pattern" in schema:
        limits.append(f"of the form {schema['pattern']}")
    if schema.get("minItems"):
        limits.append(f"of at least {schema['minItems']}")
    return " ".join([text, " and ".join(limits)]).strip()


def _experiment(where: str, experiment: dict) -> Iterator[str]:
    dataset = experiment["dataset"]
    yield from _entry(f"{where}.dataset", registry.DATASETS, dataset)
    if dataset["kind"] in registry.DATASETS:
        chosen = registry.DATASETS[dataset["kind"]]
        available = settings.constant(chosen, "AVAILABLE") or {}
        for split, most in available.items():
            if isinstance(dataset.get(split), int) and dataset[split] > most:
                yield f"{where}.dataset.{split}: found {dataset[split]}, the data has {most}"
        test = dataset.get("test")
        if isinstance(test, int) and experiment["images"] > test:
            yield f"{where}.images: found {experiment['images']}, dataset.test has {test}"
    if experiment["chunks"] > experiment["images"]:
        yield (
            f"{where}.chunks: found {experiment['chunks']},"
            f" allowed are at most as many as images, {experiment['images']}"
        )
    for section, kinds in REGISTRIES.items():
        for name, entry in experiment[section].items():
            yield from _entry(f"{where}.{section}.{name}", kinds, entry)
    if "none" not in experiment["defenses"]:
        yield f"{where}.defenses: lacks `none: {{kind: none}}`, the undefended classifier's row"


def _entry(where: str, kinds: dict, entry: dict) -> Iterator[str]:
    kind = entry["kind"]
    if kind not in kinds:
        yield f"{where}.kind: found {kind!r}, allowed is one of {', '.join(kinds)}"
        return
    yield from _against(settings.schema(kinds[kind]), entry_settings(entry), where)
    fit = settings.schema(kinds[kind], "fit")
    if "training" in entry and fit is None:
        yield f"{where}.training: a {kind} is not trained; remove the key"
    elif fit and "training" in entry:
        yield from _against(fit, entry["training"] or {}, f"{where}.training")
    if fit and ("training" in entry) == (entry.get("weights") is not None):
        released = "weights" in settings.schema(kinds[kind])["properties"]
        key = "either `training` (may be {}) or `weights`" if released else "`training` (may be {})"
        yield f"{where}: give {key}, a {kind} must be trained"


def _artifacts(config: dict) -> Iterator[str]:
    """Every name in tables and figures must exist in the experiment that it refers to."""
    for section in ("tables", "figures"):
        for artifact, spec in config.get(section, {}).items():
            where, name = f"{section}.{artifact}", spec["experiment"]
            if name not in config["experiments"]:
                known = ", ".join(config["experiments"])
                yield f"{where}.experiment: found {name!r}, allowed is one of {known}"
                continue
            for key, kind, value in _names(spec):
                known = config["experiments"][name][kind]
                if value not in known:
                    yield (
                        f"{where}.{key}: found {value!r}, allowed is one of"
                        f" {', '.join(known)} (experiments.{name}.{kind})"
                    )
            shown = spec.get("images", 0)
            if shown > config["experiments"][name]["images"]:
                yield (
                    f"{where}.images: found {shown}, experiments.{name}.images is"
                    f" {config['experiments'][name]['images']}"
                )


def _names(spec: dict) -> Iterator[tuple[str, str, str]]:
    """(key, section, name) for every reference to an experiment's entries."""
    single = {"classifier": "classifiers", "attack": "attacks", "defense": "defenses"}
    single |= {"dip": "defenses", "tdips": "defenses"}
    several = {"classifiers": "classifiers", "attacks": "attacks", "omit": "defenses"}
    for key, section in single.items():
        if key in spec:
            yield key, section, spec[key]
    for key, section in several.items():
        for value in spec.get(key, []):
            yield key, section, value
    for name, model in spec.get("models", {}).items():
        for key in ("classifier", "defense"):
            yield f"models.{name}.{key}", single[key], model[key]
