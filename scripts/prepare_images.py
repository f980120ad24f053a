"""Decode a dataset once, into one file per split."""

from tandem_defense import cache, logs, registry
from tandem_defense.configuration import entry_settings

with logs.capture(snakemake.log[0]):
    entry = snakemake.params.entry
    dataset = registry.load(registry.DATASETS[entry["kind"]])(**entry_settings(entry))
    splits = dataset.load()
    for name in ("train", "test"):
        cache.write_images(snakemake.output[name], splits[name])
