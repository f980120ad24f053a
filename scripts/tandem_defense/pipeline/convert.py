"""Turning checkpoints, released or the user's own, into weights of ours."""

from tandem_defense.files.manifest import OWN_WEIGHTS, Unusable, check, read_manifest
from tandem_defense.files.weights import write_weights
from tandem_defense.pipeline import classes
from tandem_defense.pipeline.classes import Entry


def checkpoint(entry: Entry, files: dict[str, str], manifest: str, output: str) -> None:
    """Store checkpoint files as the weights of `entry`.

    files : manifest name to path, in the order that the class's ``read_checkpoint`` takes them; a
        file of the user's own, which no manifest lists, has its path as its name

    Raises ValueError, before anything is read, if a file is not what the manifest says.
    """
    known = read_manifest(manifest)
    for name, path in files.items():
        if path == name and name.endswith(OWN_WEIGHTS):
            continue
        try:
            check(path, known[name])
        except KeyError:
            raise ValueError(f"{name} is not in {manifest}: add its URL and hash there") from None
        except Unusable as error:
            raise ValueError(
                f"{path} is not {name}: {error}. Delete it and run the same snakemake command"
                " again: rule download brings it back."
            ) from None
    module = classes.build(entry)
    module.read_checkpoint(*files.values())
    write_weights(output, module.state_dict(), classes.identity(entry))
