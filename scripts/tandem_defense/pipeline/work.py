"""What an experiment will cost, counted before anything is run. Needs no PyTorch."""

from itertools import product

from tandem_defense.pipeline import schema
from tandem_defense.pipeline.demand import ANY, Experiment


def work(experiment: Experiment) -> dict:
    """What the experiment will cost: see :func:`artifacts.plan.plan`."""
    weights = {
        file
        for seed, classifier in product(experiment.spec["seeds"], experiment.spec["classifiers"])
        for file in experiment.defense_files(seed, classifier)
    }
    return {
        "images": experiment.spec["images"],
        "chunks": experiment.spec["chunks"],
        "classifiers": len(experiment.spec["seeds"]) * len(experiment.spec["classifiers"]),
        "attacked": len(experiment.spec["seeds"]) * len(experiment.attacked()),
        "defenses": len(weights),
        "shape": experiment.shape() or [3, 224, 224],
        "restored": list(experiment.restored()),
        "restorations": {n: experiment.entry("defenses", n) for n in experiment.restorations()},
        "threats": _threats(experiment),
    }


def _threats(experiment: Experiment) -> dict:
    """What threats will cost: jobs, sets of candidates, and restorations of single images.

    ``restored`` has a line per threat, and one per defense for judging: how many images are
    restored how far. An attack takes `queries`, or `steps` in each of its `restarts`.
    """
    seeds, images = len(experiment.spec["seeds"]), experiment.threatened
    jobs, restored = set(), []
    sets = 0
    for classifier, defense in experiment.threatened_cells():
        told, bounds = experiment.whole(defense)["settings"], 1  # clean images are judged too
        steps = {key: told.get(key) for key in ("iterations", "first_iterations")}
        jobs.add((classifier, defense))
        for name, of in experiment.threats(classifier, defense).items():
            threat, entry = experiment.threat(name), experiment.spec["threats"][name]
            count = len(threat["epsilons"]) or 1
            bounds += count
            if (job := (classifier, of, name)) in jobs:
                continue
            jobs.add(job)
            sets += count
            knows = schema.defaults(threat["class"]) | threat["settings"]
            if of == ANY or entry["kind"] == "surrogate" or not steps["iterations"]:
                continue
            known = schema.defaults(threat["attack"]["class"]) | threat["attack"]["settings"]
            passes = known.get("queries") or known.get("steps", 1) * known.get("restarts", 1)
            last = min(knows.get("iterations") or steps["iterations"], steps["iterations"])
            share = last / steps["iterations"]
            first = [max(1, round(share * n)) for n in steps["first_iterations"] or ()]
            line = {"defense": defense, "iterations": [last], "first_iterations": first}
            restored.append(
                line | {"images": seeds * images * count * passes * knows.get("samples", 1)}
            )
        if steps["iterations"]:
            line = {"defense": defense, "iterations": [steps["iterations"]]}
            line |= {"first_iterations": steps["first_iterations"] or []}
            number = seeds * images * bounds * experiment.draws
            restored.append(line | {"images": number})
    chunks = experiment.spec["chunks"]
    return {
        "images": images,
        "jobs": seeds * chunks * len(jobs),
        "sets": seeds * sets,
        "restored": restored,
    }
