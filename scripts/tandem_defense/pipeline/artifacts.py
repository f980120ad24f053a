"""What tables, figures and the gallery read, and what their jobs are told. Needs no PyTorch."""

import csv
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tandem_defense.pipeline import schema
from tandem_defense.pipeline.demand import Experiment, settings, target

PUBLISHED = "resources/published"
TEMPLATE = "report/gallery.html"  # of the gallery's page


def shipped(entry: dict) -> str | None:
    """The table of published numbers that an artifact's entry names, if it is one of ours."""
    name = entry.get("published")
    return name if name and not name.endswith(".csv") else None


def unlike(section: str, entry: dict, file: Path) -> str | None:
    """The complaint about a table of published numbers without a column that the artifact reads."""
    wanted = schema.constant(target(section, entry), "PRINTED") or ()
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            columns = next(filter(None, csv.reader(lines)), [])  # as pandas, after blank lines
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return f"found {file.name}, which is not a table ({error})"
    missing = [name for name in wanted if name not in columns]
    if missing:
        found = f"found {file.name} with the columns {', '.join(columns) or 'none'}"
        return f"{found}; a table of kind {entry['kind']} reads {', '.join(missing)} too"
    return None


@dataclass(frozen=True)
class Artifact:
    """A table or figure: its `entry` in the configuration's `section`, under its `name`."""

    section: str
    name: str
    entry: dict
    experiment: Experiment

    @property
    def label(self) -> str:
        """What the report calls it."""
        return self.entry.get("label", self.name)

    @property
    def category(self) -> str:
        """Where the report puts it."""
        return self.experiment.spec.get("label", self.experiment.name)

    @property
    def needs(self) -> tuple[str, ...]:
        """The kinds of files that it reads."""
        return schema.constant(target(self.section, self.entry), "NEEDS")

    @property
    def environment(self) -> str:
        """Which of envs/ it runs in: what asks a classifier needs PyTorch, code of a user's may."""
        own = ":" in self.entry["kind"]
        return "torch" if own or "classifier" in self.needs else "plots"

    def caption(self, root: Path) -> str:
        """The caption of its kind in the checkout `root`; of the user's own kinds a general one."""
        file = root / "report" / f"{self.entry['kind']}.rst"
        return str(file if file.exists() else root / "report/own.rst")

    def params(self, root: Path) -> dict:
        """What its job is told: class and settings, and what a reader sees.

        Files of the checkout `root` are told by their content: it may lie elsewhere next time.
        """
        published = None
        if name := shipped(self.entry):
            content = (root / PUBLISHED / f"{name}.csv").read_bytes()
            published = {"name": name, "sha256": sha256(content).hexdigest()}
        classifier = None
        if "classifier" in self.needs:
            classifier = self.experiment.entry("classifiers", self.entry["classifier"])
        return {
            "entry": {
                "class": target(self.section, self.entry),
                "settings": settings(self.section, self.entry),
            },
            "sheet": self.experiment.sheet(),
            "classifier": classifier,
            "published": published,
            "shown": {key: self.entry[key] for key in ("label", "paper") if key in self.entry},
        }

    def classes(self) -> list[str]:
        """The classes that its job loads."""
        classes = [target(self.section, self.entry)]
        if "classifier" in self.needs:
            classes += self.experiment.classes("classifiers", self.entry["classifier"])
        return classes

    def files(self) -> dict[str, str | list[str]]:
        """The files that it reads; pictures are of the first seed's first chunk."""
        entry, of = self.entry, self.experiment
        classifiers = entry.get("classifiers") or [entry.get("classifier")]
        defenses = entry.get("defenses") or [entry.get("defense")]
        first = {"seed": of["seeds"][0], "scatteritem": f"1-of-{of['chunks']}"}
        first |= {"attack": entry.get("attack"), "classifier": entry.get("classifier")}
        own = {} if shipped(entry) else {"published": entry.get("published")}
        return {key: file for key, file in own.items() if file} | {
            need: {
                "predictions": lambda: of.file("predictions"),
                "images": lambda: of.file("images") + "/test.safetensors",
                "classifier": lambda: of.file("classifier", **first),
                "attacked": lambda: [
                    of.file("attacked", **(first | {"classifier": name})) for name in classifiers
                ],
                "threats": lambda: of.file("threats"),
                "restored": lambda: [of.file("restored", defense=d, **first) for d in defenses],
            }[need]()
            for need in self.needs
        }


def of(config: dict, section: str) -> list[Artifact]:
    """All tables, or all figures."""
    return [
        Artifact(section, name, entry, Experiment(of, config["experiments"][of]))
        for name, entry in config.get(section, {}).items()
        for of in [entry["experiment"]]
    ]


@dataclass(frozen=True)
class Gallery:
    """The page of pictures: what it reads of all `experiments`, and what it shows beside them."""

    experiments: dict[str, Experiment]

    def _pictured(self) -> dict[str, list[tuple[dict, str]]]:
        kinds: dict[str, list[tuple[dict, str]]] = {}
        for name, experiment in self.experiments.items():
            for kind, names, file in experiment.pictured():
                kinds.setdefault(kind, []).append(({"experiment": name} | names, file))
        return kinds

    def files(self) -> dict[str, list[str]]:
        """The files that it reads, by kind."""
        return {kind: [file for _, file in found] for kind, found in self._pictured().items()}

    def classes(self) -> list[str]:
        """The classes that its job loads."""
        found = self._pictured().get("classifier", ())
        return [
            target
            for names, _ in found
            for target in self.experiments[names["experiment"]].classes(
                "classifiers", names["classifier"]
            )
        ]

    def sheets(self) -> dict[str, dict]:
        """Every experiment as a reader sees it, with its label."""
        return {
            name: experiment.sheet() | {"label": experiment.spec.get("label", name)}
            for name, experiment in self.experiments.items()
        }

    def params(self, root: Path) -> dict:
        """What its job is told: whose every file is, in their order, and what a reader sees.

        The page's template in the checkout `root` is told by its content, as in `Artifact.params`.
        """
        entries = [
            self.experiments[names["experiment"]].entry("classifiers", names["classifier"])
            for names, _ in self._pictured().get("classifier", ())
        ]
        return {
            "of": {kind: [names for names, _ in found] for kind, found in self._pictured().items()},
            "entries": entries,
            "sheets": self.sheets(),
            "template": sha256((root / TEMPLATE).read_bytes()).hexdigest(),
        }
