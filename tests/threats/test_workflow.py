"""Threats as a part of a run: from a configuration to Table 3 and Figure 9, by Snakemake."""

import subprocess
import sys

import numpy as np
import pandas as pd
from checkout import planned, unfinished

from tandem_defense.evaluation.threats import COLUMNS
from tandem_defense.files.candidates import read_candidates

CONFIG = """
experiments:
  mine:
    dataset: {kind: digits, test: 400}
    images: 6
    seeds: [0]
    chunks: 1
    classifiers:
      net: {kind: small_cnn, classes: 10, channels: 1, width: 8, training: {epochs: 2}}
    attacks: {}
    threat_images: 4
    threats:
      oblivious:
        kind: oblivious
        attack: &pgd {kind: pgd, semantics: fixed, steps: 5}
        epsilons: [0.05, 0.5]
      exact: {kind: exact, attack: *pgd, epsilons: [0.05, 0.5]}
      noise: {kind: noise, epsilons: [0.05, 0.5]}
    defenses:
      none: {kind: none}
      magnet: {kind: magnet, channels: 1, training: {epochs: 1}}
tables:
  table3: {kind: robustness, experiment: mine, epsilon: 0.05}
  checklist: {kind: checklist, experiment: mine}
figures:
  figure9: {kind: security, experiment: mine, classifier: net, control: noise}
"""

ATTACKED = {"attack_defended": 1, "evaluate_threats": 2}
GATHERED = {"gather_threats"}


def test_a_configuration_with_threats_makes_table_3_and_figure_9(root, tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile")]
    command += ["--workflow-profile", "none", "--rerun-triggers", "mtime", "params", "input"]
    command += ["--directory", str(tmp_path), "--cores", "1"]
    command += ["table3", "figure9", "checklist"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    results = tmp_path / "results"
    table = pd.read_csv(results / "tables/table3.csv", keep_default_na=False)
    assert list(table) == COLUMNS and set(table["n"]) == {4}
    at = table.set_index(["defense", "threat", "epsilon"])["accuracy"]
    for defense in ("none", "magnet"):
        row = at[defense].drop("worst", level="threat")
        assert at[defense, "worst", 0.5] <= row.min()
    assert at["none", "exact", 0.05] == at["none", "oblivious", 0.05]
    assert (results / "figures/figure9.png").stat().st_size > 10_000
    # one set of candidates serves both defenses where the attacker knows of none
    files = {str(f.relative_to(results)) for f in results.glob("candidates/*/0/*/*/*/*")}
    owners = [("any", "oblivious"), ("any", "noise"), ("none", "exact"), ("magnet", "exact")]
    assert files == {f"candidates/mine/0/net/{d}/{t}/1-of-1.safetensors" for d, t in owners}
    lost = {"any": True, "none": False, "magnet": False}
    for file in files:
        found = read_candidates(results / file)
        assert found.images.shape[:2] == (2, 4)
        # an image that a smaller ε took from a defense is not attacked again
        kept = (found.images[0] == found.images[1]).all((1, 2, 3))
        knows = "/exact/" in file
        assert kept.tolist() == (found.deceived[0] if knows else np.zeros(4, bool)).tolist()
        lost[file.split("/")[4]] |= knows and kept.any()
    assert all(lost.values())
    answers = pd.read_csv(results / "tables/checklist.csv").set_index("question")["answer"]
    assert answers["Was every defense attacked by one who knows of it?"] == "yes"
    assert answers["Was one tried who needs no gradient, and is he no stronger?"] == "no"
    for rule in ATTACKED:
        assert unfinished(tmp_path / "logs" / rule) == []
    # What a change runs again (docs/threats.md).
    artifacts = {"table3": 1, "figure9": 1, "checklist": 1}
    for old, new, expected in (
        ("noise, epsilons: [0.05, 0.5]", "noise, epsilons: [0.05, 0.4]", ATTACKED),
        ("epochs: 1}", "epochs: 2}", {"train_defense": 1} | ATTACKED | {"evaluate_threats": 1}),
        ("epsilon: 0.05}", "epsilon: 0.5}", {}),
    ):
        (tmp_path / "config.yaml").write_text(CONFIG.replace(old, new))
        jobs = planned(subprocess.run([*command, "-n"], capture_output=True, text=True))
        drawn = artifacts if expected else {"table3": 1}
        assert {k: v for k, v in jobs.items() if v and k not in GATHERED} == expected | drawn, old
