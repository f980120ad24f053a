"""Versions, device, seeds, configuration and revision behind the results."""

import json
from pathlib import Path

from tandem_defense.startup import quick_start

with quick_start():
    from tandem_defense.pipeline import logs, provenance

with logs.capture(snakemake.log[0]):
    record = provenance.collect(snakemake.params.config)
    Path(snakemake.output[0]).write_text(json.dumps(record, indent=2) + "\n")
