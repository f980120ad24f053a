"""What other tools read of the repository: the citation, the workflow catalog, use as a module."""

import pandas as pd
import tiny
import yaml
from checkout import copy_workflow, planned, snakemake

import tandem_defense

MODULE = """
configfile: "config.yaml"

module tandem:
    snakefile: "{workflow}/Snakefile"
    config: config

use rule * from tandem

rule best:
    default_target: True
    input: "results/tables/table2.csv"
    output: "best.csv"
    shell: "sort -t, -k5 {{input}} > {{output}}"
"""


def test_the_citation_has_both_papers_and_this_version(root):
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "MIT"
    assert citation["version"] == tandem_defense.__version__
    first, second = citation["references"]
    assert first["doi"] == "10.3390/electronics9111957" and len(first["authors"]) == 5
    assert [author["family-names"] for author in second["authors"]] == ["Vigouroux", "Picard"]


def test_what_the_catalog_is_told_is_there(root):
    told = yaml.safe_load((root / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert told["software-stack-deployment"]["conda"] and list((root / "envs").glob("*.yaml"))
    assert told["report"] and (root / "report/workflow.rst").exists()
    assert (root / "config/README.md").exists()


def test_another_workflow_uses_this_one_as_a_module(root, tmp_path):
    """With a configuration of its own, in its own folder; its rule continues from ours."""
    workflow = copy_workflow(root, tmp_path / "tandem-defense")
    mine = tmp_path / "mine"
    mine.mkdir()
    config = tiny.configuration()
    del config["experiments"]["tdips"], config["figures"]
    config["tables"] = {"table2": config["tables"]["table2"]}
    (mine / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (mine / "Snakefile").write_text(MODULE.format(workflow=workflow))
    done = snakemake(mine, "--cores", "2", directory=".")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(pd.read_csv(mine / "best.csv")) == 6
    assert planned(snakemake(mine, "-n", directory=".")) == {}
