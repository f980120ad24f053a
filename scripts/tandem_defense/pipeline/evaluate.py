"""Through every feed-forward defense and the classifier to prediction rows."""

import logging

from tandem_defense import device
from tandem_defense.evaluation.rows import Chunk, answers, rows
from tandem_defense.extras import extra
from tandem_defense.files import predictions
from tandem_defense.pipeline import entries
from tandem_defense.pipeline.classes import Entry

with extra("pipeline"):
    import pandas as pd

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
        bare = net.predict(chunk.images).numpy() if bare is None else bare
        for name, defense in loaded.items():
            if attack not in only[name]:
                continue
            columns = names | {"attack": attack, "defense": name, "seed": seed}
            found = answers(net, defense, chunk.images, chunk.ids, processor, batch)
            tables.append(rows(chunk, columns, bare, *found))
            n = ((found[0] == chunk.columns["label"]) & ~found[1]).sum()
            log.info("%s, %s: %d of %d correct", attack, name, n, len(chunk.ids))
    predictions.write(pd.concat(tables, ignore_index=True), output)
