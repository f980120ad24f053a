"""Tables and figures of two papers on unsupervised adversarial defense: t-DIPs and FUNN."""

from snakemake.utils import min_version

min_version("9.0")


include: "rules/untrusted.smk"


configfile: "config.yaml"


report: "report/workflow.rst"


include: "rules/common.smk"


wildcard_constraints:
    experiment=r"[a-z][a-z0-9_]*",
    classifier=r"[a-z][a-z0-9_]*",
    attack=r"[a-z][a-z0-9_]*",
    defense=r"[a-z][a-z0-9_]*",
    threat=r"[a-z][a-z0-9_]*",
    seed=r"\d+",


include: "rules/data.smk"
include: "rules/models.smk"
include: "rules/attack.smk"
include: "rules/defend.smk"
include: "rules/artifacts.smk"
include: "rules/run.smk"


rule all:
    """Every experiment, table and figure, the gallery, and where the time went."""
    default_target: True
    input:
        rules.predictions.input,
        rules.tables.input,
        rules.figures.input,
        rules.gallery.output,
        rules.timing.output,
