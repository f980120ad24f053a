"""The finished run as an RO-Crate, in the folder of results."""

import json
from pathlib import Path

from tandem_defense.pipeline import crate, logs

with logs.capture(snakemake.log[0]):
    files, output = snakemake.input, Path(snakemake.output[0])
    provenance = json.loads(Path(files.provenance).read_text(encoding="utf-8"))
    crate.write(output.parent, [*files.results, files.provenance], provenance)
