"""Complaints about threats: their settings, their attack, whom they attack. Needs no PyTorch."""

from collections.abc import Iterator

from tandem_defense.pipeline import demand, schema
from tandem_defense.pipeline.check_entries import enough_classes, settings_of, unknown, value_of
from tandem_defense.pipeline.demand import Experiment


def threats_of(path: str, spec: dict) -> Iterator[str]:
    """The keys beside `threats`."""
    if not spec.get("threats"):
        for key in ("threat_images", "draws"):
            if key in spec:
                yield f"{path}.{key}: there are no threats; remove the key"
        return
    count = spec.get("threat_images", spec["images"])
    if count > spec["images"]:
        yield f"{path}.threat_images: found {count}, allowed are at most images, {spec['images']}"
    if count < spec["chunks"]:
        yield (
            f"{path}.threat_images: found {count}, allowed are at least as many as chunks,"
            f" {spec['chunks']}"
        )


def threat_of(path: str, name: str, experiment: Experiment) -> Iterator[str]:
    """One threat: settings, attack, bounds, and that it attacks something it can."""
    spec = experiment.spec
    entry = spec["threats"][name]
    if name == "worst":
        yield f"{path}: the name is that of the worst case over all threats; choose another"
    yield from settings_of(path, "threats", entry)
    attack = demand.attack_of(entry)
    yield from settings_of(f"{path}.attack", "attacks", attack)
    for key in ("label", "only"):
        if key in attack:
            yield f"{path}.attack.{key}: has no effect here, expected beside `attack`: say it there"
    known = schema.schema(demand.target("attacks", attack))["properties"]
    if "epsilons" in entry and "epsilon" not in known:
        yield f"{path}.epsilons: the attack {attack['kind']} has no setting epsilon; remove the key"
    if "epsilons" in entry and "epsilon" in attack:
        yield f"{path}.attack.epsilon: has no effect beside `epsilons`: say it there"
    chosen = demand.target("attacks", attack)
    value = {
        name: value_of("attacks", attack, name) or schema.constant(chosen, name)
        for name in ("semantics", "norm")
    }
    if "epsilon" in known and value["norm"] == "l2":
        yield (
            f"{path}.attack: found {attack['kind']}, whose ε bounds the L2 norm, allowed is one"
            " whose ε bounds L∞, in which threats are compared"
        )
    if value["semantics"] in (schema.constant(chosen, "UNBOUNDED") or ()):
        yield (
            f"{path}.attack.semantics: found {value['semantics']}, which may go beyond ε, allowed"
            " is what keeps within it: threats are compared by ε"
        )
    yield from enough_classes(f"{path}.attack", attack, spec, entry.get("only", {}))
    fixed = value["semantics"] == "fixed"
    if entry["kind"] == "low_frequency" and not ("epsilon" in known and fixed):
        yield (
            f"{path}.attack: found {attack['kind']} that stops early or has no ε, allowed is one"
            " that spends all of it: semantics: fixed"
        )
    for section in ("classifiers", "defenses"):
        for other in entry.get("only", {}).get(section, ()):
            if other not in spec[section]:
                yield f"{path}.only.{section}: {unknown(other, list(spec[section]))}"
    if entry["kind"] == "exact":
        for classifier, defense in experiment.threatened_cells():
            if defense in experiment.restorations() and name in experiment.threats(
                classifier, defense
            ):
                yield (
                    f"{path}: {defense} has no gradient to go through: leave it out of"
                    " `only: {defenses: ...}`, and attack it with bpda or surrogate"
                )
                break
    if not any(name in experiment.threats(*cell) for cell in experiment.threatened_cells()):
        yield f"{path}.only: leaves no classifier with a defense that is run before it"
