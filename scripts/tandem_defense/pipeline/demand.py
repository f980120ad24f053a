"""What a configuration asks for: which jobs, which files, with which settings. Needs no PyTorch.

An experiment says what is computed; tables and figures only read. So everything here follows from
one entry of ``experiments``, and nothing from ``tables`` or ``figures``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from tandem_defense.files.manifest import OWN_WEIGHTS
from tandem_defense.pipeline import registry, schema
from tandem_defense.pipeline.chunks import chunk_positions

# Keys of an entry that are not settings of its class.
BESIDE = {
    "dataset": ("kind",),
    "classifiers": ("kind", "label", "training"),
    "attacks": ("kind", "label", "only"),
    "defenses": ("kind", "label", "control", "training", "only", "readouts", "every"),
    "threats": ("kind", "label", "attack", "epsilons", "only"),
    "tables": ("kind", "label", "paper"),
    "figures": ("kind", "label", "paper"),
}
READOUTS = ("iterations", "first_iterations", "every")  # of a restoration

RUN = "{experiment}/{seed}"
SET = RUN + "/{classifier}/{attack}"  # one attack's images of one classifier
DEFENDED = RUN + "/{classifier}/{defense}"  # one defended classifier
CHUNK = "/{scatteritem}"
# Where every file of an experiment is.
FILES = {
    "images": "results/images/{experiment}",
    "classifier": f"results/classifiers/{RUN}/{{classifier}}.safetensors",
    "defense": f"results/defenses/{RUN}/{{classifier}}/{{defense}}.safetensors",
    "attacked": f"results/adversarial/{SET}{CHUNK}.safetensors",
    "evaluate": f"results/predictions/{RUN}/{{classifier}}/feed_forward{CHUNK}.parquet",
    "restore": f"results/predictions/{SET}/{{defense}}{CHUNK}.parquet",
    "restore_clean": f"results/predictions/{RUN}/clean/{{defense}}{CHUNK}.parquet",
    "restored": f"results/restored/{SET}/{{defense}}{CHUNK}.safetensors",
    "restored_clean": f"results/restored/{RUN}/clean/{{defense}}{CHUNK}.safetensors",
    "predictions": "results/predictions/{experiment}.parquet",
    "candidates": f"results/candidates/{DEFENDED}/{{threat}}{CHUNK}.safetensors",
    "judged": f"results/threats/{DEFENDED}{CHUNK}.parquet",
    "threats": "results/threats/{experiment}.parquet",
}
ANY = "any"  # in place of a defense: candidates of a threat that knows of none
CLEAN = "clean"  # the name of the unattacked images beside the attacks'


def target(section: str, entry: dict) -> str:
    """The class of an entry."""
    return registry.target(section, entry["kind"])


def is_restoration(entry: dict) -> bool:
    """Whether a defense optimizes for every image: jobs of its own, with read-outs."""
    return bool(schema.constant(target("defenses", entry), "RESTORATION"))


def settings(section: str, entry: dict) -> dict:
    """What an entry passes to its class, read-outs of a restoration apart.

    In the order of their names: Snakemake compares them as text, and an editor may sort keys.
    """
    apart = BESIDE[section]
    if section == "defenses" and is_restoration(entry):
        apart = (*apart, *READOUTS)
    return {key: entry[key] for key in sorted(entry, key=str) if key not in apart}


def networks(entry: dict) -> int:
    """How many networks a defense fits to an image: 2 as t-DIPs, 1 as DIP, 0 unless it restores."""
    known = schema.schema(target("defenses", entry))["properties"]
    return (2 if "first_iterations" in known else 1) if is_restoration(entry) else 0


def attack_of(threat: dict) -> dict:
    """The attack of a threat's entry, its class's own where it names none."""
    return threat.get("attack") or schema.constant(target("threats", threat), "ATTACK")


def made_by(entry: dict) -> list[str]:
    """The key that says where an entry's weights come from; none where it has no weights."""
    given = {"training": "training" in entry, "weights": entry.get("weights") is not None}
    return [key for key, there in given.items() if there]


def own_weights(entry: dict) -> bool:
    """Whether the weights that `entry` asks for are a file of the user's own."""
    return entry["weights"].endswith(OWN_WEIGHTS)


def checkpoint(section: str, entry: dict) -> list[str]:
    """The files whose weights `entry` asks for; none if it is trained.

    Names in the manifest, or a path: `weights` that end as a file does are the user's own.
    """
    if entry.get("weights") is None:
        return []
    if own_weights(entry):
        return [entry["weights"]]
    patterns = schema.constant(target(section, entry), "CHECKPOINT") or ()
    return [pattern.format(**entry) for pattern in patterns]


def selects(only: dict, classifier: str | None, attack: str) -> bool:
    """Whether ``only: {classifiers: …, attacks: …}`` has a set of images in it.

    `classifier` is None for clean images, which are restored once for all classifiers.
    """
    some = only.get("classifiers")
    return (some is None or classifier is None or classifier in some) and attack in only.get(
        "attacks", [attack]
    )


@dataclass(frozen=True)
class Experiment:
    """An experiment's entry in the configuration, `spec`, under its `name`."""

    name: str
    spec: dict

    def __getitem__(self, key: str):
        return self.spec[key]

    # --- what jobs are told -----------------------------------------------------------------

    def entry(self, section: str, name: str) -> dict:
        """Class, settings and training of an entry, as a job gets them."""
        entry = self.spec[section][name]
        told = {"class": target(section, entry), "settings": settings(section, entry)}
        if "training" in entry:
            given = entry["training"] or {}
            told["training"] = {key: given[key] for key in sorted(given, key=str)}
        return told

    def dataset(self) -> dict:
        """The dataset's class and settings."""
        entry = self.spec["dataset"]
        return {"class": target("dataset", entry), "settings": settings("dataset", entry)}

    def classes(self, section: str, *names: str) -> list[str]:
        """The classes of some entries, of all without `names`, and what these load by name."""
        entries = [self.spec[section][name] for name in names or self.spec[section]]
        loaded = [e["module"] for e in entries if ":" in str(e.get("module"))]
        return [target(section, entry) for entry in entries] + loaded

    def attacks(self, classifier: str | None = None) -> list[str]:
        """All sets of images: clean, and under every attack (on one classifier, if given)."""
        return [
            CLEAN,
            *(
                name
                for name, entry in self.spec["attacks"].items()
                if selects(entry.get("only", {}), classifier, name)
            ),
        ]

    def attacked(self) -> list[tuple[str, str]]:
        """Every (classifier, attack) of which there are adversarial images."""
        return [(net, name) for net in self.spec["classifiers"] for name in self.attacks(net)[1:]]

    def shape(self) -> list[int] | None:
        """(C, H, W) of the images, None where the dataset's class does not say."""
        entry = self.spec["dataset"]
        shape = schema.constant(target("dataset", entry), "SHAPE")
        if shape is None:
            return None
        side = entry.get("size", shape[-1])
        return [1 if entry.get("color") is False else shape[0], side, side]

    # --- defenses ---------------------------------------------------------------------------

    def restorations(self) -> list[str]:
        """Defenses that optimize for every image."""
        return [n for n, entry in self.spec["defenses"].items() if is_restoration(entry)]

    def feed_forward(self, classifier: str) -> dict[str, list[str]]:
        """The other defenses of a classifier, each with the attacks (or clean) it is run on."""
        defenses = {
            name: [
                attack
                for attack in self.attacks(classifier)
                if selects(entry.get("only", {}), classifier, attack)
            ]
            for name, entry in self.spec["defenses"].items()
            if not is_restoration(entry)
        }
        return {name: attacks for name, attacks in defenses.items() if attacks}

    def trained_against(self, defense: str, classifier: str) -> str:
        """The classifier that a defense's weights belong to, or "any"."""
        needs_one = schema.trained_against_a_classifier(
            target("defenses", self.spec["defenses"][defense])
        )
        return classifier if needs_one else "any"

    def with_weights(self, classifier: str) -> list[str]:
        """Feed-forward defenses of a classifier that have weights, trained or released."""
        entries = self.spec["defenses"]
        return [n for n in self.feed_forward(classifier) if made_by(entries[n])]

    # --- restorations -----------------------------------------------------------------------

    def rules(self, defense: str) -> list[dict]:
        """What is read out of a restoration: {only, iterations, every, first_iterations} each."""
        entry = self.spec["defenses"][defense]
        known = schema.defaults(target("defenses", entry))
        lines = entry.get("readouts") or [
            {key: entry[key] for key in ("only", *READOUTS) if key in entry}
        ]
        rules = []
        for line in lines:
            last = line.get("iterations", known["iterations"])
            rule = {"only": line.get("only", {}), "iterations": last}
            rule["every"] = line.get("every", last)
            first = line.get("first_iterations", known.get("first_iterations", ()))
            rules.append(rule | {"first_iterations": list(first)})
        return rules

    def computed(self, defense: str, classifier: str, attack: str) -> dict | None:
        """The read-outs of which the rows have predictions; None where there are none."""
        if not is_restoration(self.spec["defenses"][defense]):
            return None
        if attack != CLEAN:
            return self.readouts(defense, classifier, attack)
        asked = classifier in self.clean_classifiers(defense)
        return self.readouts(defense, None, CLEAN) if asked else None

    def readouts(self, defense: str, classifier: str | None, attack: str) -> dict | None:
        """``iterations`` and ``first_iterations`` of one set of images; None where there are none.

        One run serves every rule that selects the set.
        """
        steps: set[int] = set()
        first: set[int] = set()
        for rule in self.rules(defense) if attack in self.attacks(classifier) else ():
            if selects(rule["only"], classifier, attack):
                steps |= {*range(rule["every"], rule["iterations"] + 1, rule["every"])}
                steps.add(rule["iterations"])
                first |= {*rule["first_iterations"]}
        return {"iterations": sorted(steps), "first_iterations": sorted(first)} if steps else None

    def clean_classifiers(self, defense: str) -> list[str]:
        """The classifiers that are asked about clean images restored by `defense`."""
        return [
            name
            for name in self.spec["classifiers"]
            if any(selects(rule["only"], name, CLEAN) for rule in self.rules(defense))
        ]

    def shown(self, scatteritem: str) -> int:
        """How many of a chunk's images are kept as restored: the experiment's first ones."""
        positions = chunk_positions(scatteritem, self.spec["images"])
        return max(0, min(self.spec.get("keep_restored", 0), positions.stop) - positions.start)

    def restored(self) -> Iterator[dict]:
        """Every set of images that is restored: the wildcards of its job, and its read-outs."""
        for seed, defense in product(self.spec["seeds"], self.restorations()):
            cards = {"experiment": self.name, "seed": seed, "defense": defense}
            if self.clean_classifiers(defense):
                yield cards | self.readouts(defense, None, CLEAN)
            for classifier, attack in self.attacked():
                if asked := self.readouts(defense, classifier, attack):
                    yield cards | {"classifier": classifier, "attack": attack} | asked

    # --- threats ----------------------------------------------------------------------------

    @property
    def threatened(self) -> int:
        """How many images are attacked by those who know of the defense, the first ones."""
        return self.spec.get("threat_images", self.spec["images"])

    @property
    def draws(self) -> int:
        """With how many seeds a candidate for a random defense is judged."""
        return self.spec.get("draws", 3)

    def threat(self, name: str) -> dict:
        """A threat's class and settings, its attack, and the bounds ε of the attack."""
        entry = self.spec["threats"][name]
        given = attack_of(entry)
        attack = {"name": given["kind"], "class": target("attacks", given)}
        attack["settings"] = settings("attacks", given)
        epsilons = entry.get("epsilons")
        if epsilons is None:
            known = schema.defaults(attack["class"]) | attack["settings"]
            epsilons = [known["epsilon"]] if "epsilon" in known else []
        told = self.entry("threats", name) | {"attack": attack, "epsilons": sorted(epsilons)}
        if told["settings"].get("knows_seeds"):
            told["draws"] = self.draws
        return told

    def threat_classes(self, defense: str, threat: str) -> list[str]:
        """The classes that a threat's job loads beside the classifier's."""
        defenses = [] if defense == ANY else self.classes("defenses", defense)
        told = self.threat(threat)
        return [*defenses, told["class"], told["attack"]["class"]]

    def whole(self, defense: str) -> dict:
        """Class and settings of a defense as threats meet it: a restoration at its first read-out.

        That is the last iteration of its first list of read-outs, with the first λ₁ there.
        """
        if defense == ANY:
            return {"class": target("defenses", {"kind": "none"}), "settings": {}}
        told = self.entry("defenses", defense)
        if is_restoration(self.spec["defenses"][defense]):
            rule = self.rules(defense)[0]
            steps = {"iterations": rule["iterations"]}
            if rule["first_iterations"]:
                steps["first_iterations"] = rule["first_iterations"][:1]
            told = told | {"settings": told["settings"] | steps}
        return told

    def threats(self, classifier: str, defense: str) -> dict[str, str]:
        """The threats to a defended classifier: name to the defense that its candidates are for."""
        found = {}
        for name, entry in self.spec.get("threats", {}).items():
            only = entry.get("only", {})
            chosen = classifier in only.get("classifiers", [classifier])
            if chosen and defense in only.get("defenses", [defense]):
                aware = schema.constant(target("threats", entry), "AWARE")
                found[name] = ANY if aware is False else defense
        return found

    def threatened_cells(self) -> list[tuple[str, str]]:
        """Every (classifier, defense) that some threat is for."""
        return [
            (classifier, defense)
            for classifier in self.spec["classifiers"]
            for defense in self.defenses_of(classifier)
            if self.threats(classifier, defense)
        ]

    def defenses_of(self, classifier: str) -> list[str]:
        """The defenses that are run before a classifier under any attack, or clean."""
        return [
            name
            for name in self.spec["defenses"]
            if (
                any(self.computed(name, classifier, attack) for attack in self.attacks())
                if is_restoration(self.spec["defenses"][name])
                else name in self.feed_forward(classifier)
            )
        ]

    def weights(self, seed: int | str, classifier: str, defense: str) -> str | list:
        """The file of a defense's weights; an empty list where it has none."""
        if not made_by(self.spec["defenses"].get(defense, {})):
            return []
        against = self.trained_against(defense, classifier)
        return self.file("defense", seed=seed, classifier=against, defense=defense)

    def judged_files(self) -> list[str]:
        """Every file of judged candidates."""
        return [
            file
            for seed, (classifier, defense) in product(self.spec["seeds"], self.threatened_cells())
            for file in self.chunks(
                self.file(
                    "judged",
                    seed=seed,
                    classifier=classifier,
                    defense=defense,
                    scatteritem="{scatteritem}",
                )
            )
        ]

    # --- files ------------------------------------------------------------------------------

    def file(self, kind: str, **wildcards) -> str:
        """A file of this experiment, e.g. ``file("classifier", seed=0, classifier="small")``."""
        return FILES[kind].format(**({"experiment": self.name} | wildcards))

    def chunks(self, pattern: str) -> list[str]:
        """The files of all chunks, from one with the wildcard scatteritem."""
        count = self.spec["chunks"]
        return [pattern.replace("{scatteritem}", f"{i + 1}-of-{count}") for i in range(count)]

    def prediction_files(self) -> list[str]:
        """Every prediction file of the experiment."""
        patterns = [
            self.file("evaluate", seed=seed, classifier=classifier, scatteritem="{scatteritem}")
            for seed, classifier in product(self.spec["seeds"], self.spec["classifiers"])
        ]
        for cards in self.restored():
            kind = "restore" if "attack" in cards else "restore_clean"
            patterns.append(self.file(kind, **cards, scatteritem="{scatteritem}"))
        return sorted(file for pattern in patterns for file in self.chunks(pattern))

    def attacked_files(self) -> list[str]:
        """The adversarial images of every seed, classifier, attack and chunk."""
        patterns = [
            self.file("attacked", seed=s, classifier=c, attack=a, scatteritem="{scatteritem}")
            for s, (c, a) in product(self.spec["seeds"], self.attacked())
        ]
        return [file for pattern in patterns for file in self.chunks(pattern)]

    def defense_files(self, seed: int | str, classifier: str) -> list[str]:
        """The weights of the feed-forward defenses of a classifier."""
        return [
            self.file(
                "defense",
                seed=seed,
                classifier=self.trained_against(name, classifier),
                defense=name,
            )
            for name in self.with_weights(classifier)
        ]

    def pictured(self) -> Iterator[tuple[str, dict, str]]:
        """The files of which the gallery shows pictures: (kind, names, file).

        As in the figures, of the first seed's first chunk. None where no restored images are kept.
        """
        first = {"seed": self.spec["seeds"][0], "scatteritem": f"1-of-{self.spec['chunks']}"}
        sets = []
        for defense, classifier, attack in product(
            self.restorations(), self.spec["classifiers"], self.attacks()
        ):
            if self.spec.get("keep_restored") and self.computed(defense, classifier, attack):
                names = {"classifier": classifier, "attack": attack, "defense": defense}
                kind = "restored_clean" if attack == CLEAN else "restored"
                sets.append(("restored", names, self.file(kind, **names, **first)))
        for classifier in dict.fromkeys(names["classifier"] for _, names, _ in sets):
            names = {"classifier": classifier}
            yield "classifier", names, self.file("classifier", **names, **first)
        for classifier, attack in dict.fromkeys(
            (names["classifier"], names["attack"]) for _, names, _ in sets
        ):
            names = {"classifier": classifier, "attack": attack}
            if attack != CLEAN:
                yield "attacked", names, self.file("attacked", **names, **first)
        if sets:
            yield "images", {}, self.file("images") + "/test.safetensors"
            yield "predictions", {"seed": first["seed"]}, self.file("predictions")
        yield from sets

    # --- what tables and figures are told ---------------------------------------------------

    def sheet(self) -> dict:
        """The experiment as a reader sees it: see :class:`artifacts.base.Sheet`."""

        def labels(section: str) -> dict[str, str]:
            return {n: entry.get("label", n) for n, entry in self.spec[section].items()}

        return {
            "dataset": self.spec["dataset"]["kind"],
            "classifiers": labels("classifiers"),
            "attacks": {CLEAN: "Clean"} | labels("attacks"),
            "defenses": labels("defenses"),
            "threats": {n: e.get("label", n) for n, e in self.spec.get("threats", {}).items()},
            "controls": [n for n, e in self.spec["defenses"].items() if e.get("control")],
        }
