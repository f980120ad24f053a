"""Download an entry of the manifest, a file or an archive's folder, and check it."""

from tandem_defense import logs
from tandem_defense.stages import download

with logs.capture(snakemake.log[0], echo=True):
    name = snakemake.wildcards.file
    members = snakemake.input.get("members")
    download.get(
        name,
        download.read_manifest(snakemake.input.manifest)[name],
        snakemake.output[0],
        members=download.read_members(members) if members else None,
        offline=snakemake.config.get("offline"),
    )
