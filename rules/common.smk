"""Reading and checking the configuration, and what several rules need; no rules."""

import re
import tomllib

import yaml

from tandem_defense.pipeline import artifacts, configuration, demand, schema, stale, work

DOWNLOADS = tomllib.loads((ROOT / "resources/downloads.toml").read_text(encoding="utf-8"))


config.update(configuration.with_fractions(dict(config)))
try:
    shape = yaml.safe_load((ROOT / "schemas/config.schema.yaml").read_text(encoding="utf-8"))
    configuration.check(config, shape, DOWNLOADS, ROOT)
    if workflow.is_main_process:
        on_cluster = workflow.resource_settings.nodes is not None  # jobs of its own elsewhere
        in_storage = workflow.storage_settings.default_storage_provider not in (None, "none")
        configuration.check_machine(config, on_cluster, files=not in_storage)
except configuration.ConfigurationError as error:
    raise WorkflowError(str(error)) from None

EXPERIMENTS = {n: demand.Experiment(n, spec) for n, spec in config["experiments"].items()}

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


def owners(section, key):
    """A wildcard pattern of experiments, each before the weights of its entries that have `key`.

    An experiment's entry may be trained where another experiment's of the same name is converted.
    """
    parts = []
    for name, experiment in EXPERIMENTS.items():
        entries = [n for n, entry in experiment[section].items() if key in demand.made_by(entry)]
        if entries:
            parts.append(rf"{name}(?=/.*/(?:{'|'.join(entries)})\.safetensors$)")
    return "|".join(parts) or "none-at-all"


def restorations():
    """A wildcard pattern of all experiments' restorations."""
    names = {name for experiment in EXPERIMENTS.values() for name in experiment.restorations()}
    return "|".join(sorted(names)) or "none-at-all"


def experiment_of(wildcards):
    """The experiment that a job belongs to."""
    return EXPERIMENTS[wildcards.experiment]


def entry(section):
    """A job's param: class, settings and training of the entry that a wildcard names."""
    wildcard = section.removesuffix("s")
    return lambda w: experiment_of(w).entry(section, getattr(w, wildcard))


def code(script, *sections, also=None):
    """A job's param that changes with the code it runs: its script, the classes it is told."""

    def hashes(w):
        targets = [t for s in sections for t in experiment_of(w).classes(s, getattr(w, s[:-1]))]
        return stale.code(script, *targets, *(also(w) if also else []))

    return hashes


def dataset_files(wildcards):
    """The files that a dataset's class names, in its folder; none if it ships with a package."""
    found = experiment_of(wildcards)["dataset"]
    files = schema.constant(demand.target("dataset", found), "FILES") or ()
    return [f"{found['folder']}/{file}" for file in files]


def checkpoint_names(section):
    """A checkpoint's files: names in the manifest, or the path of the user's own."""
    wildcard = section.removesuffix("s")
    return lambda w: demand.checkpoint(section, experiment_of(w)[section][getattr(w, wildcard)])


def checkpoint_files(section):
    """Where a checkpoint's files are: downloaded, or the user's own."""
    names = checkpoint_names(section)
    return lambda w: [f"results/downloads/{n}" if n in DOWNLOADS else n for n in names(w)]


def feed_forward(wildcards):
    """The feed-forward defenses of a job's classifier, each with its attacks."""
    return experiment_of(wildcards).feed_forward(wildcards.classifier)


def of_a_paper(section):
    """Names of the tables or figures that regenerate one of a paper."""
    return [name for name, entry in config.get(section, {}).items() if "paper" in entry]
