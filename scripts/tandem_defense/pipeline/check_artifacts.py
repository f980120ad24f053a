"""Complaints about tables and figures: the names they refer to, and that these are computed."""

from collections.abc import Iterator
from itertools import product
from math import isclose
from typing import NamedTuple

from tandem_defense.pipeline import demand, schema
from tandem_defense.pipeline.artifacts import Artifact
from tandem_defense.pipeline.check_entries import settings_of, unknown, value_of, without_maps
from tandem_defense.pipeline.demand import Experiment


def artifacts(config: dict) -> Iterator[str]:
    """Tables and figures: their settings, the names they refer to, and that these are computed."""
    for section in ("tables", "figures"):
        for name, entry in config.get(section, {}).items():
            path = f"{section}.{name}"
            complaints = [*settings_of(path, section, entry)]
            if not complaints and entry["experiment"] not in config["experiments"]:
                names = list(config["experiments"])
                complaints = [f"{path}.experiment: {unknown(entry['experiment'], names)}"]
            if not complaints:
                spec = config["experiments"][entry["experiment"]]
                artifact = Artifact(section, name, entry, Experiment(entry["experiment"], spec))
                complaints = [*_references(path, artifact)]
            if not complaints and "threats" in artifact.needs:
                complaints = [*_threatened(path, artifact)]
            yield from complaints or [*_computed(path, artifact), *_pictures(path, artifact)]


def _references(path: str, artifact: Artifact) -> Iterator[str]:
    """Every name of a classifier, attack or defense is in the experiment, and of the right sort."""
    entry, experiment = artifact.entry, artifact.experiment
    known = schema.schema(demand.target(artifact.section, entry))
    for key, option, value in names(known, demand.settings(artifact.section, entry)):
        section = option["entry"]
        place = f"experiments.{experiment.name}.{section}"
        allowed = list(experiment.spec.get(section, {}))
        if section == "attacks" and "attacked" not in artifact.needs:
            allowed = experiment.attacks()
        if value not in allowed:
            yield f"{path}.{key}: {unknown(value, allowed)} ({place})"
        elif "networks" in option:
            counts = {name: demand.networks(experiment[section][name]) for name in allowed}
            fits = [name for name in allowed if counts[name] in option["networks"]]
            sort = " or ".join(("DIP", "t-DIPs")[n - 1] for n in option["networks"])
            if value not in fits:
                yield (
                    f"{path}.{key}: found {value!r}, allowed is a restoration as {sort}:"
                    f" {', '.join(fits) or 'none'} ({place})"
                )


def _threatened(path: str, artifact: Artifact) -> Iterator[str]:
    """What shows threats has some: of its classifier, and at its ε."""
    entry, experiment = artifact.entry, artifact.experiment
    place = f"experiments.{experiment.name}"
    cells = experiment.threatened_cells()
    if not cells:
        yield f"{path}.experiment: {place} has no threats to any defended classifier: add some"
        return
    known = sorted({classifier for classifier, _ in cells})
    if "classifier" in entry and entry["classifier"] not in known:
        yield f"{path}.classifier: {unknown(entry['classifier'], known)} ({place}.threats)"
    control = entry.get("control")
    if control and isinstance(control, str):
        classifiers = [entry["classifier"]] if "classifier" in entry else known
        met = {
            name
            for classifier, defense in cells
            if classifier in classifiers
            for name in experiment.threats(classifier, defense)
        }
        if control not in met:
            yield f"{path}.control: {unknown(control, sorted(met))} ({place}.threats, `only`)"
    bounds = {
        bound
        for classifier, defense in cells
        for name in experiment.threats(classifier, defense)
        for bound in experiment.threat(name)["epsilons"]
    }
    if "epsilon" in entry and not any(isclose(entry["epsilon"], bound) for bound in bounds):
        texts = [f"{bound:g}" for bound in sorted(bounds)]
        yield f"{path}.epsilon: {unknown(entry['epsilon'], texts)} ({place}.threats)"


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


class View(NamedTuple):
    """Cells that an artifact shows, and the keys under which its entry says at which read-out."""

    defenses: list[str]
    classifiers: list[str]
    attacks: list[str]
    keys: dict[str, str]
    whole: bool  # all these cells, not only those that the experiment computes


def _views(artifact: Artifact) -> Iterator[View]:
    """What an artifact shows of restorations."""
    entry, experiment = artifact.entry, artifact.experiment
    known = schema.schema(demand.target(artifact.section, entry))["properties"]
    own = {key: key for key in demand.READOUTS}
    for key in ("defense", "defenses"):
        if "networks" in known.get(key, {}).get("items", known.get(key, {})):
            attacks = [*_of(entry, "attack", "attacks")]
            yield View([*_of(entry, key)], [*_of(entry, "classifier")], attacks, own, True)
    if "omit" in known:
        shown = [name for name in experiment["defenses"] if name not in _of(entry, "omit")]
        classifiers = [*_of(entry, "classifiers")] or list(experiment["classifiers"])
        attacks = [*_of(entry, "attacks")] or experiment.attacks()
        steps = {key: key for key in ("iterations", "first_iterations")}
        yield View(shown, classifiers, attacks, steps, False)
    if entry.get("curve_classifier"):
        curves = {"iterations": "last", "first_iterations": "curve_first_iterations"}
        shown = [entry["dip"], entry["tdips"]]
        classifiers, attacks = [entry["curve_classifier"]], entry["curve_attacks"]
        yield View(shown, classifiers, attacks, own | curves, True)


def _computed(path: str, artifact: Artifact) -> Iterator[str]:
    """The read-outs that an artifact shows, its experiment computes."""
    entry, experiment = artifact.entry, artifact.experiment
    yield from _attacked(path, artifact)
    for view in _views(artifact):
        yield from _readouts(path, artifact, view)
    if "restored" in artifact.needs and not entry.get("first_iterations"):
        for name in _of(entry, "defense", "defenses"):
            if demand.networks(experiment["defenses"][name]) == 2:
                yield f"{path}: lacks the key first_iterations, which {name} needs"
    if "omit" in schema.schema(demand.target(artifact.section, entry))["properties"]:
        left = [name for name in experiment["defenses"] if name not in _of(entry, "omit")]
        least = 2 if entry["kind"] == "comparisons" else 1
        if len(left) < least:
            found = ", ".join(left) or "no defense"
            yield f"{path}.omit: leaves {found}, expected at least {least}"
    models = entry.get("models")
    for name, model in models.items() if isinstance(models, dict) else ():
        defense = model.get("defense", "none")
        run = experiment.feed_forward(model["classifier"])
        if not demand.is_restoration(experiment["defenses"][defense]) and defense not in run:
            yield (
                f"{path}.models.{name}.defense: {defense} is not run before {model['classifier']}:"
                f" see its `only` in experiments.{experiment.name}.defenses"
            )
        for attack in [*_of(entry, "attacks")] or experiment["attacks"]:
            have = experiment.computed(defense, model["classifier"], attack)
            if have and len(have["iterations"]) * len(have["first_iterations"] or [0]) > 1:
                yield (
                    f"{path}.models.{name}.defense: {defense} has the read-outs {have} on {attack},"
                    " and a model shows one: ask the experiment for one"
                )
                break


def _attacked(path: str, artifact: Artifact) -> Iterator[str]:
    """What is shown is attacked: in a figure every classifier, in a table one at least."""
    entry, experiment = artifact.entry, artifact.experiment
    nets = [*_of(entry, "classifier", "classifiers")] or list(experiment["classifiers"])
    for attack in _of(entry, "attack", "attacks"):
        spared = [net for net in nets if attack not in experiment.attacks(net)]
        if spared and (artifact.section == "figures" or spared == nets):
            place = f"experiments.{experiment.name}.attacks.{attack}"
            yield f"{path}: {place} does not attack {', '.join(spared)}: see its `only`"


def _readouts(path: str, artifact: Artifact, view: View) -> Iterator[str]:
    """The read-outs that a view asks for have an effect, and are computed in all its cells."""
    entry, experiment = artifact.entry, artifact.experiment
    last, every = (entry.get(view.keys.get(key)) for key in ("iterations", "every"))
    if last and every and last % every:
        yield f"{path}.{view.keys['iterations']}: found {last}, allowed is a multiple of {every}"
    steps = [last] if last else []
    steps = [*range(every, last + 1, every)] if last and every else steps
    asked = {"iterations": steps, "first_iterations": [*_of(entry, view.keys["first_iterations"])]}
    networks = {name: demand.networks(experiment["defenses"][name]) for name in view.defenses}
    for least, key in enumerate(asked, 1):
        if asked[key] and max(networks.values(), default=0) < least:
            yield (
                f"{path}.{view.keys[key]}: has no effect on {', '.join(networks)}: remove it, or"
                f" show a restoration as {'t-DIPs' if least == 2 else 'DIP or t-DIPs'}"
            )
    for defense in (name for name in networks if networks[name]):
        place = f"experiments.{experiment.name}.defenses.{defense}"
        cells = {}
        for classifier, attack in product(view.classifiers, view.attacks):
            if have := experiment.computed(defense, classifier, attack):
                cells[f"{attack} of {classifier}"] = have
            elif view.whole:
                yield f"{path}: {place} is not run on {attack} of {classifier}: see its `only`"
        first = {n for rule in experiment.rules(defense) for n in rule["first_iterations"]}
        for key, wanted in asked.items():
            if key == "first_iterations" and view.whole and not wanted:
                wanted = sorted(first)  # the default is all that there are
            known = {on: have[key] for on, have in cells.items() if have[key]}
            lacking = ((n, on) for on, have in known.items() for n in wanted if n not in have)
            if missing := next(lacking, None):
                number, on = missing
                yield (
                    f"{path}.{view.keys[key]}: {place} has no read-out {number} on {on}, but"
                    f" {known[on]}"
                )
            if known and not wanted and not set.intersection(*map(set, known.values())):
                yield f"{path}: {place} has no {key} that all its cells share: show fewer cells"


def _pictures(path: str, artifact: Artifact) -> Iterator[str]:
    """As many images as a figure shows are there, and feature maps where it draws them."""
    entry, spec = artifact.entry, artifact.experiment.spec
    place = f"experiments.{artifact.experiment.name}"
    chosen = demand.target(artifact.section, entry)
    if schema.constant(chosen, "MAPS") and without_maps(spec["classifiers"][entry["classifier"]]):
        yield f"{path}.classifier: {entry['classifier']} has no feature maps, which this draws"
    count = value_of(artifact.section, entry, "images")
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
    """The values under some keys, each one value, a list of values, or null."""
    for key in keys:
        value = entry.get(key)
        yield from value if isinstance(value, list) else [] if value is None else [value]
