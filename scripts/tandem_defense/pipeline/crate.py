"""A finished run as an RO-Crate: which files it made, their SHA-256, of which workflow and when.

The crate is the folder of results with ``ro-crate-metadata.json`` in it (Process Run Crate 0.5);
nothing is copied.
"""

import mimetypes
from collections.abc import Iterable
from hashlib import file_digest
from pathlib import Path

from tandem_defense.extras import extra

with extra("pipeline"):
    from rocrate.model.contextentity import ContextEntity
    from rocrate.rocrate import ROCrate

PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
CONTEXT = "https://w3id.org/ro/terms/workflow-run/context"
PAPERS = {
    "https://doi.org/10.3390/electronics9111957": (
        "Unsupervised Adversarial Defense through Tandem Deep Image Priors"
    ),
    "#funn": "FUNN: Flexible Unsupervised Neural Network",
}
KINDS = {
    "adversarial": "attacked images of one chunk, with what the attack did to each",
    "predictions": "prediction rows, one per image and read-out",
    "tables": "a table",
    "figures": "a figure, or what it shows",
}


def write(folder: str | Path, files: Iterable[str | Path], provenance: dict) -> None:
    """Write ``ro-crate-metadata.json`` into the folder of results.

    files : the files that are described, all below `folder`
    provenance : as the pipeline's ``provenance.json``

    Raises ValueError for a file that lies elsewhere, FileNotFoundError for one that is not there.
    """
    folder = Path(folder)
    crate = ROCrate()
    crate.metadata.extra_contexts.append(CONTEXT)
    labels = ", ".join(provenance["seeds"])
    crate.name = f"tandem-defense: results of {labels}"
    crate.description = (
        "Tables, figures, prediction rows and adversarial images of a run of tandem-defense. The"
        " attacker is oblivious, where the configuration does not say otherwise."
    )
    crate.license = "see the images' own licenses; the software is MIT"
    crate.datePublished = provenance["finished"]
    papers = [
        _context(crate, name, "ScholarlyArticle", name=title) for name, title in PAPERS.items()
    ]
    workflow = _context(
        crate,
        "#workflow",
        ["SoftwareSourceCode", "ComputationalWorkflow"],
        name="tandem-defense",
        version=provenance["revision"] or "unknown",
        programmingLanguage="Snakemake",
        softwareRequirements=[f"{n} {v}" for n, v in provenance["packages"].items()],
        citation=papers,
    )
    results = [
        crate.add_file(path, _inside(path, folder), properties=_file(path, folder))
        for path in map(Path, files)
    ]
    action = _context(
        crate,
        "#run",
        "CreateAction",
        name="the run",
        instrument=workflow,
        result=results,
        endTime=provenance["finished"],
        description=f"on {provenance['device']}, {provenance['system']}; seeds"
        f" {provenance['seeds']}",
    )
    crate.root_dataset["conformsTo"] = _context(
        crate, PROFILE, "CreativeWork", name="Process Run Crate", version="0.5"
    )
    crate.root_dataset["mentions"] = [action]
    crate.metadata.write(folder)


def _context(crate: ROCrate, identifier: str, kind: str | list[str], **properties) -> ContextEntity:
    entity = ContextEntity(crate, identifier, properties={"@type": kind})
    for key, value in properties.items():
        entity[key] = value
    return crate.add(entity)


def _inside(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _file(path: Path, folder: Path) -> dict:
    """What the crate says of a file: its kind, size and hash."""
    with path.open("rb") as stream:
        digest = file_digest(stream, "sha256").hexdigest()
    kind = path.relative_to(folder).parts[0]
    size = str(path.stat().st_size)
    format = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    about = {"description": KINDS[kind]} if kind in KINDS else {}
    return {
        "name": path.name,
        "sha256": digest,
        "contentSize": size,
        "encodingFormat": format,
    } | about
