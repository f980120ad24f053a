"""Validation and input functions; no rules."""

import re
import sys
import tomllib
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import yaml
from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT / "scripts"))

from tandem_defense import configuration, registry, settings
from tandem_defense.stale import code as code_of

DOWNLOADS = tomllib.loads((ROOT / "resources/downloads.toml").read_text(encoding="utf-8"))

config.update(configuration.with_fractions(dict(config)))
try:
    schema = yaml.safe_load((ROOT / "schemas/config.schema.yaml").read_text())
    configuration.check(config, schema, DOWNLOADS)
except configuration.ConfigurationError as error:
    raise WorkflowError(str(error)) from None

EXPERIMENTS = config["experiments"]
ARTIFACTS = {**config["tables"], **config["figures"]}

workflow.scattergather(**{name: found["chunks"] for name, found in EXPERIMENTS.items()})


# A machine's GPUs limit the jobs on that machine, not the jobs that a cluster may run.
resource_scopes:
    gpu="local",


def manifest_names(archives):
    """A wildcard pattern of the manifest's archives, or of its single files."""
    names = [name for name, found in DOWNLOADS.items() if ("members" in found) == archives]
    return "|".join(map(re.escape, names))


def kept(file):
    """An output that is deleted after its last use where the configuration says so."""
    return file if config.get("keep_adversarial", True) else temp(file)


def growing(amount):
    """A resource, MB or minutes, of which the second try gets twice the amount, and so on."""
    return lambda wildcards, attempt: amount * attempt


def dataset_files(wildcards):
    """The files that a dataset's entry names with its folder; none if it ships with a package."""
    found = EXPERIMENTS[wildcards.experiment]["dataset"]
    files = settings.constant(registry.DATASETS[found["kind"]], "FILES") or ()
    return [f"{found['folder']}/{file}" for file in files]


def entry(section, wildcards, name=None):
    """The configuration's entry for this section's wildcard, or for `name`."""
    name = name or getattr(wildcards, section.removesuffix("s"))
    return EXPERIMENTS[wildcards.experiment][section][name]


def checkpoint_names(section):
    """A checkpoint's files: names in the manifest, or the path of the user's own."""
    return lambda wildcards: configuration.checkpoint(section, entry(section, wildcards))


def checkpoint_files(section):
    """Where a checkpoint's files are: downloaded, or the user's own."""
    names = checkpoint_names(section)

    def files(wildcards):
        own = configuration.own_weights(entry(section, wildcards))
        return [name if own else f"results/downloads/{name}" for name in names(wildcards)]

    return files


def code(script, *sections, also=()):
    """Params that change with the code a job runs: its script, and the classes it loads by name."""

    def hashes(wildcards):
        named = [configuration.target(s, entry(s, wildcards)) for s in sections]
        more = also(wildcards) if callable(also) else also
        return code_of(script, *named, *more)

    return hashes


def named(key, *sections):
    """A wildcard pattern of the entries that have `key`."""
    names = {
        name
        for experiment in EXPERIMENTS.values()
        for section in sections
        for name, found in experiment[section].items()
        if key in found
    }
    return "|".join(sorted(names)) or "none-at-all"


RESTORATIONS = {
    name
    for experiment in EXPERIMENTS.values()
    for name, found in experiment["defenses"].items()
    if found["kind"] in registry.RESTORATIONS
}


def classifier_files(wildcards, *names):
    """The weights of classifiers; of all of the experiment's without `names`."""
    folder = f"results/classifiers/{wildcards.experiment}/{wildcards.seed}"
    names = names or EXPERIMENTS[wildcards.experiment]["classifiers"]
    return [f"{folder}/{name}.safetensors" for name in names]


def attacked_files(wildcards):
    """One chunk of images under every attack of an experiment, in the configuration's order."""
    attacks = EXPERIMENTS[wildcards.experiment]["attacks"]
    w = wildcards
    folder = f"results/adversarial/{w.experiment}/{w.seed}/{w.classifier}"
    return [f"{folder}/{attack}/{w.scatteritem}.safetensors" for attack in attacks]


def feed_forward(wildcards):
    """Names of the defenses without restorations that the tables ask of a classifier."""
    found = EXPERIMENTS[wildcards.experiment]["defenses"]
    pairs = [
        model
        for spec in config["tables"].values()
        if spec["experiment"] == wildcards.experiment
        for model in spec.get("models", {}).values()
    ]
    asked = [m["defense"] for m in pairs if m["classifier"] == wildcards.classifier]
    return [n for n in found if n not in RESTORATIONS and (n in asked or not pairs)]


def trained_against(wildcards, name):
    """The classifier that a trained defense belongs to, or "any"."""
    target = configuration.target("defenses", entry("defenses", wildcards, name))
    return wildcards.classifier if settings.supplied(target, "fit", "classifier") else "any"


def defense_files(wildcards):
    """Weights of the trained ones among `feed_forward`."""
    folder = f"results/defenses/{wildcards.experiment}/{wildcards.seed}"
    return [
        f"{folder}/{trained_against(wildcards, name)}/{name}.safetensors"
        for name in feed_forward(wildcards)
        if {"training", "weights"} & set(entry("defenses", wildcards, name))
    ]


def classifier_code(wildcards):
    """The class of the classifier that a defense is trained against."""
    if wildcards.classifier == "any":
        return []
    return [configuration.target("classifiers", entry("classifiers", wildcards))]


def feed_forward_code(wildcards):
    """The classes of the feed-forward defenses that apply to a classifier."""
    found = [entry("defenses", wildcards, name) for name in feed_forward(wildcards)]
    return [configuration.target("defenses", e) for e in found]


def all_classifiers_code(wildcards):
    """The classes of all classifiers of an experiment."""
    found = EXPERIMENTS[wildcards.experiment]["classifiers"].values()
    return [configuration.target("classifiers", e) for e in found]


def asks(spec, wildcards, attack, classifier):
    """Whether a table or figure needs the restoration of one set of images.

    `classifier` is None for clean images, which are restored once for all classifiers.
    """
    defenses = [spec[key] for key in ("defense", "dip", "tdips") if key in spec]
    return (
        "iterations" in spec
        and spec["experiment"] == wildcards.experiment
        and wildcards.defense not in spec.get("omit", [])
        and wildcards.defense in (defenses or RESTORATIONS)
        and classifier in (spec.get("classifier", classifier), None)
        and attack in spec.get("attacks", [spec.get("attack", attack)])
    )


def readouts(wildcards):
    """Steps after which the tables and figures read a restoration of one set of images.

    `iterations` (λ₂), `first_iterations` (λ₁) and `kept`, the steps whose images are shown.
    """
    where = getattr(wildcards, "attack", "clean"), getattr(wildcards, "classifier", None)
    steps, first, kept = set(), set(), set()
    for spec in ARTIFACTS.values():
        if asks(spec, wildcards, *where):
            every = spec.get("every", spec["iterations"])
            steps.update(range(every, spec["iterations"] + 1, every), [spec["iterations"]])
            value = spec.get("first_iterations", [])
            first.update(value if isinstance(value, list) else [value])
            kept.update([spec["iterations"]] if "images" in spec else [])
    return {"iterations": sorted(steps), "first_iterations": sorted(first), "kept": sorted(kept)}


def shown(experiment):
    """How many of the first images are kept for figures, which show the first that were fooled."""
    wanted = [s.get("images", 0) for s in ARTIFACTS.values() if s["experiment"] == experiment]
    return min(4 * max(wanted, default=0), EXPERIMENTS[experiment]["images"])


def chunks(pattern, **values):
    """The files of all chunks of an experiment."""
    whole = pattern.format(scatteritem="{scatteritem}", **values)
    return getattr(gather, values["experiment"])(whole)


PREDICTIONS = {
    "feed_forward": "results/predictions/{experiment}/{seed}/{classifier}/feed_forward/{scatteritem}.parquet",
    "restore": "results/predictions/{experiment}/{seed}/{classifier}/{attack}/{defense}/{scatteritem}.parquet",
    "restore_clean": "results/predictions/{experiment}/{seed}/clean/{defense}/{scatteritem}.parquet",
}


def restored_sets(name):
    """Every set of images of an experiment that tables and figures ask to be restored.

    (wildcards of the rule that does it, pattern of its output)
    """
    found = EXPERIMENTS[name]
    restorations = [defense for defense in found["defenses"] if defense in RESTORATIONS]
    for seed, defense in product(found["seeds"], restorations):
        values = {"experiment": name, "seed": seed, "defense": defense}
        cards = SimpleNamespace(**values)
        if any(asks(spec, cards, "clean", None) for spec in ARTIFACTS.values()):
            yield values, PREDICTIONS["restore_clean"]
        for classifier, attack in product(found["classifiers"], found["attacks"]):
            if any(asks(spec, cards, attack, classifier) for spec in ARTIFACTS.values()):
                yield values | {"classifier": classifier, "attack": attack}, PREDICTIONS["restore"]


def prediction_files(wildcards):
    """Every prediction file of an experiment: exactly what its tables and figures read."""
    name, found = wildcards.experiment, EXPERIMENTS[wildcards.experiment]
    files = []
    for seed, classifier in product(found["seeds"], found["classifiers"]):
        values = {"experiment": name, "seed": seed, "classifier": classifier}
        files += chunks(PREDICTIONS["feed_forward"], **values)
    for values, pattern in restored_sets(name):
        files += chunks(pattern, **values)
    return sorted(files)


def planned():
    """What the plan is made of: the experiments, with all that is asked of them."""
    return {name: found | planned_work(name, found) for name, found in EXPERIMENTS.items()}


def planned_work(name, found):
    """See :func:`tandem_defense.evaluation.plan.plan`."""
    restored, trained = [], set()
    for values, _ in restored_sets(name):
        kind = found["defenses"][values["defense"]]["kind"]
        tandem = settings.schema(registry.RESTORATIONS[kind])["properties"]
        asked = readouts(SimpleNamespace(**values))
        first = asked["first_iterations"] if "first_iterations" in tandem else []
        restored.append(values | {"iterations": asked["iterations"], "first_iterations": first})
    for seed, classifier in product(found["seeds"], found["classifiers"]):
        cards = SimpleNamespace(experiment=name, seed=seed, classifier=classifier)
        trained.update(defense_files(cards))
    shape = settings.constant(registry.DATASETS[found["dataset"]["kind"]], "SHAPE")
    return {"shape": shape, "restored": restored, "trained": len(trained)}


def restored_file(spec, defense):
    """The kept images of the first chunk for a figure that shows restorations."""
    chunk = f"1-of-{EXPERIMENTS[spec['experiment']]['chunks']}"
    seed = EXPERIMENTS[spec["experiment"]]["seeds"][0]
    where = f"{spec['experiment']}/{seed}/{spec['classifier']}/{spec['attack']}"
    return f"results/restored/{where}/{defense}/{chunk}.safetensors"


def adversarial_file(spec, classifier):
    """The first chunk of attacked images for a figure that shows them."""
    chunk = f"1-of-{EXPERIMENTS[spec['experiment']]['chunks']}"
    seed = EXPERIMENTS[spec["experiment"]]["seeds"][0]
    where = f"{spec['experiment']}/{seed}/{classifier}/{spec['attack']}"
    return f"results/adversarial/{where}/{chunk}.safetensors"


def labels(experiment):
    """Display names of an experiment's entries, for tables and figures."""
    sections = ("classifiers", "attacks", "defenses")
    found = EXPERIMENTS[experiment]
    names = {n: e.get("label", n) for s in sections for n, e in found[s].items()}
    controls = [n for n, e in found["defenses"].items() if e.get("control")]
    return names | {"clean": "Clean", "controls": controls}


def with_dataset(spec):
    """A table's or figure's entry with the dataset's name, as the prediction rows have it."""
    return spec | {"dataset": EXPERIMENTS[spec["experiment"]]["dataset"]["kind"]}


def table1_spec():
    """Table 1's rows and columns: everything in its experiment that is not omitted."""
    spec = config["tables"]["table1"]
    found = EXPERIMENTS[spec["experiment"]]
    return with_dataset(spec) | {
        "classifiers": list(found["classifiers"]),
        "attacks": ["clean", *found["attacks"]],
        "defenses": [name for name in found["defenses"] if name not in spec.get("omit", [])],
    }


def table2_spec():
    """Table 2's rows and columns: every attack of its experiment."""
    spec = config["tables"]["table2"]
    return with_dataset(spec) | {"attacks": list(EXPERIMENTS[spec["experiment"]]["attacks"])}


def figure_spec(figure):
    """A figure's entry with its dataset."""
    return with_dataset(config["figures"][figure])


FUNN2 = with_dataset(config["figures"]["funn_figure2"])


def panel_files(figure, *defenses):
    """Inputs of a figure that shows images: originals, attacked ones, restored ones, classifier."""
    spec = config["figures"][figure]
    seed = EXPERIMENTS[spec["experiment"]]["seeds"][0]
    folder = f"results/classifiers/{spec['experiment']}/{seed}"
    files = {
        "images": f"results/images/{spec['experiment']}/test.safetensors",
        "attacked": adversarial_file(spec, spec["classifier"]),
        "classifier": f"{folder}/{spec['classifier']}.safetensors",
    }
    return files | {key: restored_file(spec, spec[key]) for key in defenses}


def panel_params(figure):
    """Params of a figure that shows images."""
    spec = config["figures"][figure]
    found = EXPERIMENTS[spec["experiment"]]
    classifier = found["classifiers"][spec["classifier"]]
    return {
        "code": code_of(f"{figure}.py", configuration.target("classifiers", classifier)),
        "spec": with_dataset(spec),
        "classifier": classifier,
        "labels": labels(spec["experiment"]),
    }
