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
    seed=r"\d+",


include: "rules/data.smk"
include: "rules/training.smk"
include: "rules/attack.smk"
include: "rules/defend.smk"
include: "rules/tables.smk"
include: "rules/figures.smk"


rule all:
    """Every table and figure of both papers."""
    default_target: True
    input:
        rules.timing.input,  # tables, figures, provenance
        rules.timing.output,
