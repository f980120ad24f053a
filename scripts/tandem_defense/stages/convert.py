"""Turning checkpoints, released or the user's own, into weights of ours."""

from tandem_defense import cache
from tandem_defense.configuration import own_weights
from tandem_defense.stages import download, models


def checkpoint(
    section: str, entry: dict, files: dict[str, str], manifest: str, output: str
) -> None:
    """Store checkpoint files as the weights of `entry`.

    section : ``classifiers`` or ``defenses``
    files : manifest name to path, in the order that the class's ``read_checkpoint`` takes them; a
        file of the user's own, which no manifest lists, has its path as its name

    Raises ValueError, before anything is read, if a file is not what the manifest says.
    """
    entries = download.read_manifest(manifest)
    for name, path in files.items():
        if own_weights(entry):
            continue
        try:
            download.check(path, entries[name])
        except download.Unusable as error:
            raise ValueError(
                f"{path} is not {name}: {error}. Delete it and run the same snakemake command"
                " again: rule download brings it anew."
            ) from None
    module = models.build(section, entry)
    module.read_checkpoint(*files.values())
    cache.write_weights(output, module.state_dict(), models.identity(entry))
