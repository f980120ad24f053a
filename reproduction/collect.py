"""Copies the small files of a run of reproduction/config.yaml into measured/, with provenance.

python reproduction/collect.py [FOLDER]      FOLDER: where it ran, reproduction/ itself without it
"""

import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "scripts"))

import pandas as pd  # noqa: E402
import yaml  # noqa: E402

from tandem_defense.artifacts import timing as times  # noqa: E402
from tandem_defense.artifacts.overview import overview  # noqa: E402
from tandem_defense.files import predictions  # noqa: E402
from tandem_defense.pipeline import provenance  # noqa: E402

TABLES = ("table1.csv", "table1_comparisons.csv", "table2.csv", "claims.csv", "funn_claims.csv")
TABLES += ("table3.csv", "table3_mnist.csv", "table3_restored.csv", "table3_patches.csv")
FIGURES = ("figure3", "figure6", "figure7", "figure8", "funn_figure2")
FIGURES += ("figure9", "figure9_classic", "figure9_funn", "figure9_linf")


def main() -> None:
    """Take what is there; of an experiment that is not finished, what was taken before stays."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    measured = HERE / "measured"
    measured.mkdir(exist_ok=True)
    for name in TABLES:
        if (file := folder / "results/tables" / name).exists():
            shutil.copy(file, measured)
    for name in FIGURES:
        if (file := folder / f"results/figures/{name}.png").exists():
            shutil.copy(file, measured)
    found = {file.stem: file for file in sorted((folder / "results/predictions").glob("*.parquet"))}
    parts = {
        name: overview(predictions.read(file, "gather_predictions")) for name, file in found.items()
    }
    if not parts:  # e.g. a run of the threats alone
        return
    whole = pd.concat(parts, names=["experiment"]).reset_index(level=0)
    if (kept := measured / "overview.csv").exists():
        earlier = pd.read_csv(kept)
        whole = pd.concat([earlier[~earlier["experiment"].isin(found)], whole])
    whole.round(6).to_csv(kept, index=False)
    times.gather(folder / "benchmarks").round(1).to_csv(measured / "timing.csv", index=False)
    config = yaml.safe_load((HERE / "config.yaml").read_text(encoding="utf-8"))
    record = provenance.collect(config)
    (measured / "provenance.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
