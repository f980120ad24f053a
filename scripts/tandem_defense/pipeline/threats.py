"""Attacking a chunk as a threat does, and judging candidates by the defended classifier."""

import logging

import numpy as np
import torch
import torch.nn.functional as F

from tandem_defense import device
from tandem_defense.attacks.batches import PIXELS
from tandem_defense.defenses.base import Defense, NoDefense
from tandem_defense.extras import extra
from tandem_defense.files import judgments
from tandem_defense.files.base import FileError, made_by
from tandem_defense.files.candidates import FLAGS, CandidateSet, read_candidates, write_candidates
from tandem_defense.files.images import read_images
from tandem_defense.pipeline import checkpoint, classes, entries
from tandem_defense.pipeline.chunks import chunk_positions
from tandem_defense.pipeline.classes import Entry
from tandem_defense.pipeline.progress import Progress
from tandem_defense.threats.base import DRAWS, judged_with, random

with extra("pipeline"):
    import pandas as pd

log = logging.getLogger(__name__)


def attack(
    entry: dict,
    classifier: tuple[Entry, str],
    defense: tuple[Entry, str | None],
    images: dict[str, str],
    output: str,
    *,
    count: int,
    scatteritem: str,
    seed: int,
    threads: int,
) -> None:
    """Candidates of one threat for one chunk of the first `count` images, at every ε of its entry.

    What a smaller ε found lies in a larger one's ball: an image that it took from a defense which
    answers for sure is not attacked again, and keeps its candidate.

    entry : ``class`` and ``settings`` of the threat, its ``attack`` and ``epsilons``; ``draws``
        where it knows the seeds that candidates are judged with
    images : files of the images, ``test``, and of the attacker's own, ``train``
    """
    processor = device.prepare(threads)
    threat, net = classes.build(entry), entries.load(*classifier, processor)
    defended = entries.load(*defense, processor, seed)
    data = read_images(images["test"])
    chunk = data.chunk(chunk_positions(scatteritem, count))
    if "pairs" in threat.settings():
        own = read_images(images["train"])[slice(0, threat.pairs)]
        threat.prepare(defended, entries.to_tensor(own.images).to(processor), own.ids, seed)
    x, y = entries.to_tensor(chunk.images), torch.from_numpy(chunk.labels)
    shape = (len(entry["epsilons"]) or 1, len(chunk))
    found = {"images": torch.zeros(*shape, *x.shape[1:])}
    found |= {name: torch.zeros(shape, dtype=torch.bool) for name in FLAGS}
    # Image by image: how many are attacked at a time depends on the device, which may be another.
    attacked = torch.zeros(shape, dtype=torch.bool)
    part = checkpoint.part("candidates", found | {"attacked": attacked}).resume()
    size = max(1, PIXELS.get(processor.type, PIXELS["cpu"]) // x[0, 0].numel())
    size = min(size, classes.load_class(entry["attack"]["class"]).BATCH or size)
    if processor.type == "cpu" and getattr(defended, "RESTORATION", False):
        size = 1  # it restores image by image there, and an attack does not go on inside a batch
    # An attacker who knows of no defense attacks for all of them, which answer differently.
    keeps = threat.AWARE and not random(defended)
    progress = Progress(shape[0] * len(chunk), "images attacked")
    for e, epsilon in enumerate(entry["epsilons"] or [None]):
        own = {} if epsilon is None else {"epsilon": epsilon}
        tool = classes.build(entry["attack"] | {"settings": entry["attack"]["settings"] | own})
        for start in range(0, len(chunk), size):
            whole = np.arange(len(chunk))[start : start + size]
            rows = whole[~attacked[e, whole].numpy()]
            if e and keeps and len(rows):
                for values in found.values():
                    values[e, rows] = values[e - 1, rows]
                ids, labels = [chunk.ids[i] for i in rows], chunk.labels[rows]
                before = found["images"][e, rows]
                answer = answers(net, defended, before, ids, y=labels, on=processor, n=size)
                lost = (answer["prediction"] != y[rows]) | answer["rejected"]
                rows = rows[~lost.numpy()]
            if len(rows):
                given = (x[rows].to(processor), y[rows].to(processor))
                ids = [chunk.ids[i] for i in rows]
                draws = entry.get("draws", DRAWS)
                result = threat(tool, net, defended, *given, ids=ids, seed=seed, draws=draws)
                for name, values in found.items():
                    values[e, rows] = getattr(result, name).cpu().to(values.dtype)
            attacked[e, whole] = True
            progress(len(whole))
            if part.due():
                part.save()
        log.info(
            "epsilon %s: target deceived on %d of %d",
            epsilon,
            found["deceived"][e].sum(),
            len(chunk),
        )
    difference = (found["images"] - x).double().flatten(2)
    write_candidates(
        output,
        CandidateSet(
            labels=chunk.labels,
            ids=chunk.ids,
            linf=difference.norm(torch.inf, dim=2).float().numpy(),
            l2=difference.norm(2, dim=2).float().numpy(),
            epsilons=tuple(entry["epsilons"]) or (0.0,),
            attack=entry["attack"]["name"],
            settings=_identity(entry, seed),
            classes=len(data.classes),
            **{name: values.numpy() for name, values in found.items()},
        ),
    )


def judge(
    threats: dict[str, tuple[Entry, str]],
    names: dict,
    classifier: tuple[Entry, str],
    defense: tuple[Entry, str | None],
    images: str,
    output: str,
    *,
    count: int,
    scatteritem: str,
    draws: int,
    dynamic: bool,
    seed: int,
    threads: int,
    batch: int = 64,
) -> None:
    """Rows of one defended classifier on a chunk: clean, and every threat's candidates.

    threats : name to (entry, file of candidates)
    draws : fresh seeds that a random defense judges every candidate with; others judge once
    dynamic : whether the defense optimizes while it defends
    """
    processor = device.prepare(threads)
    net, defended = entries.load(*classifier, processor), entries.load(*defense, processor, seed)
    chunk = read_images(images).chunk(chunk_positions(scatteritem, count))
    zero = np.zeros(len(chunk), np.float32)
    flags = dict.fromkeys(FLAGS, np.zeros(len(chunk), bool))
    bare = isinstance(defended, NoDefense)  # whoever attacks it knows all that there is
    x = entries.to_tensor(chunk.images)
    sets = [("clean", "clean", 0.0, x, False, False, 0, zero, zero, flags)]
    for name, (entry, file) in threats.items():
        stored, kind = read_candidates(file), classes.load_class(entry["class"])
        identity = _identity(entry, seed)
        if stored.ids != tuple(chunk.ids) or stored.settings != identity:
            told = "images" if stored.ids != tuple(chunk.ids) else "settings"
            raise FileError(file, f"has candidates of other {told}", made_by("attack_defended"))
        samples = classes.build(entry).samples
        for e, epsilon in enumerate(stored.epsilons):
            of = {flag: getattr(stored, flag)[e] for flag in FLAGS}
            x = torch.from_numpy(stored.images[e])
            size = (stored.linf[e], stored.l2[e])
            aware = kind.AWARE or (bare and samples > 0)
            does = (aware, kind.GRADIENTS, samples)
            sets.append((name, stored.attack, epsilon, x, *does, *size, of))
    chance = random(defended)
    number = draws if chance else 1
    shape = (len(sets), number, len(chunk))
    live = {
        "prediction": torch.full(shape, -1),
        "loss": torch.zeros(shape),
        "rejected": torch.zeros(shape, dtype=torch.bool),
    }
    judged = torch.zeros(shape, dtype=torch.bool)
    part, tables = checkpoint.part("judged", live | {"judged": judged}).resume(), []
    progress = Progress(len(sets) * number, "sets of candidates judged")
    for s, (threat, attack, epsilon, x, *does, linf, l2, of) in enumerate(sets):
        for draw in range(number):
            if chance:
                defended.seed = judged_with(seed, draw)
            for start in range(0, len(chunk), batch):
                some = slice(start, start + batch)
                if judged[s, draw, some].all():
                    continue
                ids, y = chunk.ids[some], chunk.labels[some]
                found = answers(net, defended, x[some], ids, y=y, on=processor, n=batch)
                for name, values in found.items():
                    live[name][s, draw, some] = values
                judged[s, draw, some] = True
                if part.due():
                    part.save()
            progress(1)
            columns = {name: values[s, draw].numpy() for name, values in live.items()}
            columns |= {"threat": threat, "attack": attack, "epsilon": epsilon, "draw": draw}
            columns |= {"linf": linf, "l2": l2}
            columns |= dict(zip(("aware", "gradients", "samples"), does, strict=True))
            columns |= {"random": chance, "dynamic": dynamic, "seed": seed}
            columns |= {"image": list(chunk.ids), "label": chunk.labels}
            tables.append(pd.DataFrame(names | columns | of))
        log.info("%s at %.4f: judged", threat, epsilon)
    judgments.write(pd.concat(tables, ignore_index=True), output)


def _identity(entry: Entry, seed: int) -> dict:
    """What candidates were made with."""
    return classes.identity(entry) | {"attack": classes.identity(entry["attack"]), "seed": seed}


@torch.no_grad()
def answers(net, defense: Defense, images, ids, *, y, on, n: int) -> dict[str, torch.Tensor]:
    """Prediction, cross-entropy and refusal of defended images, (N,) each."""
    parts: dict[str, list] = {"prediction": [], "loss": [], "rejected": []}
    labels = torch.from_numpy(y)
    for start in range(0, len(images), n):
        x, some = images[start : start + n].to(on), slice(start, start + n)
        logits = net(defense(x.clone(), ids[some]))  # either may work in place
        parts["prediction"].append(logits.argmax(1).cpu())
        parts["loss"].append(F.cross_entropy(logits.cpu(), labels[some], reduction="none"))
        parts["rejected"].append(defense.rejects(x.clone()).cpu())
    return {name: torch.cat(values) for name, values in parts.items()}
