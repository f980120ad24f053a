"""Through a restoration and the classifiers to prediction rows at every read-out."""

import torch

from tandem_defense import device
from tandem_defense.evaluation.rows import Chunk, rows
from tandem_defense.extras import extra
from tandem_defense.files import predictions
from tandem_defense.files.restored import write_restored
from tandem_defense.pipeline import checkpoint, classes, entries
from tandem_defense.pipeline.classes import Entry
from tandem_defense.pipeline.progress import Progress

with extra("pipeline"):
    import pandas as pd


def restore(
    chunk: Chunk,
    names: dict,
    classifiers: dict[str, tuple[Entry, str]],
    entry: Entry,
    output: str,
    *,
    readouts: dict[str, list[int]],
    keep: int,
    shown_output: str,
    seed: int,
    threads: int,
) -> None:
    """Rows of a restoration at every read-out, for every classifier (name: (entry, weights)).

    readouts : ``iterations``, a list of steps, and ``first_iterations``, a list of λ₁, empty for a
        restoration that has no first network
    keep : how many of the chunk's first images are kept in `shown_output`, as restored at every
        read-out and as the first network leaves them, if there is one
    """
    processor = device.prepare(threads)
    nets = {n: entries.load(*c, processor) for n, c in classifiers.items()}
    steps, lengths = readouts["iterations"], readouts["first_iterations"]
    extra = {"iterations": steps[-1]} | ({"first_iterations": lengths} if lengths else {})
    restoration = classes.build(entry | {"settings": entry["settings"] | extra}, seed).to(processor)
    lengths = sorted(set(lengths)) or [0]
    restoration.progress = Progress(restoration.steps(len(chunk.ids), steps[-1]), "image-steps")
    predicted = torch.full((len(lengths), len(steps), len(nets), len(chunk.ids)), -1)
    flat = torch.zeros(len(lengths), len(chunk.ids), dtype=torch.bool)
    kept = {
        f"{first}/{step}": torch.zeros(keep, *chunk.images.shape[1:])
        for first in lengths
        for step in ([0, *steps] if first else steps)  # 0: the first network's output
        if keep
    }
    checkpoint.part("read-outs", {"predictions": predicted, "flat": flat} | kept).resume()
    for restored in restoration.trace(chunk.images.to(processor), chunk.ids, steps):
        at, first, step = restored.positions, restored.first_iterations, restored.iteration
        if restored.flat is not None:
            flat[lengths.index(first), at] = restored.flat.cpu()
        for order, net in enumerate(nets.values()):
            answers = net.predict(restored.images)
            predicted[lengths.index(first), steps.index(step), order, at] = answers
        states = {step: restored.images} | ({0: restored.start} if first else {})
        for number, images in states.items():
            pictures = kept.get(f"{first}/{number}", ())
            for i, image in zip(at, images.cpu(), strict=True):
                if i < len(pictures):
                    pictures[i] = image
    known = chunk.columns.get("clean_prediction")
    bare = {
        n: net.predict(chunk.images).numpy() if known is None else known for n, net in nets.items()
    }
    tables = []
    for i, first in enumerate(lengths):
        for j, step in enumerate(steps):
            for order, name in enumerate(nets):
                columns = {"first_iterations": first, "iteration": step, "seed": seed}
                named = names | columns | {"classifier": name}
                tables.append(rows(chunk, named, bare[name], predicted[i, j, order].numpy()))
    pictures = {key: images.numpy() for key, images in sorted(kept.items())}
    write_restored(shown_output, pictures, list(chunk.ids[:keep]))
    table = pd.concat(tables, ignore_index=True)
    predictions.write(table, output, flat_first_outputs=int(flat.sum()))
