"""Versions, device, seeds, configuration and revision behind the results."""

import json
from pathlib import Path

from tandem_defense import logs, provenance

with logs.capture(snakemake.log[0]):
    found = provenance.collect(snakemake.params.config, snakemake.params.root)
    Path(snakemake.output[0]).write_text(json.dumps(found, indent=2) + "\n")
