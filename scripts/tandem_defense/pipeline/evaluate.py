"""Through every feed-forward defense and the classifier to prediction rows."""

import logging

import pandas as pd
import torch

from tandem_defense import device
from tandem_defense.files import predictions
from tandem_defense.pipeline import entries
from tandem_defense.pipeline.classes import Entry
from tandem_defense.pipeline.rows import Chunk, correct, predict, rows

log = logging.getLogger(__name__)


def evaluate(
    chunks: dict[str, Chunk],
    names: dict,
    classifier: tuple[Entry, str],
    defenses: dict[str, tuple[Entry, str | None]],
    output: str,
    *,
    only: dict[str, list[str]],
    seed: int,
    threads: int,
    batch: int = 64,
) -> None:
    """Rows of every feed-forward defense (name: (entry, weights)) on a chunk under every attack.

    only : the attacks (or clean) that each defense is run on
    """
    processor = device.prepare(threads)
    net = entries.load(*classifier, processor)
    loaded = {n: entries.load(*d, processor, seed) for n, d in defenses.items()}
    tables = []
    for attack, chunk in chunks.items():
        bare = chunk.columns.get("clean_prediction")
        bare = predict(net, chunk.images) if bare is None else bare
        for name, defense in loaded.items():
            if attack not in only[name]:
                continue
            defended, rejected = [], []
            with torch.no_grad():
                for start in range(0, len(chunk.ids), batch):
                    images = chunk.images[start : start + batch].to(processor)
                    ids = chunk.ids[start : start + batch]
                    defended.append(net(defense(images, ids)).argmax(1))
                    rejected.append(defense.rejects(images))
            answers = torch.cat(defended).cpu().numpy(), torch.cat(rejected).cpu().numpy()
            columns = names | {"attack": attack, "defense": name, "seed": seed}
            tables.append(rows(chunk, columns, bare, *answers))
            n = correct(tables[-1])
            log.info("%s, %s: %d of %d correct", attack, name, n, len(chunk.ids))
    predictions.write(pd.concat(tables, ignore_index=True), output)
