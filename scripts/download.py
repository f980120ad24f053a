"""Download an entry of the manifest, a file or an archive's folder, and check it."""

from tandem_defense.files import download
from tandem_defense.files.manifest import read_manifest, read_members
from tandem_defense.pipeline import logs

with logs.capture(snakemake.log[0], echo=True):
    name = snakemake.wildcards.file
    members = snakemake.input.get("members")
    download.get(
        name,
        read_manifest(snakemake.input.manifest)[name],
        snakemake.output[0],
        members=read_members(members) if members else None,
        offline=snakemake.config.get("offline"),
    )
