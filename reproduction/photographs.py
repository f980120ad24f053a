"""Table 1 on as many photographs as the hours give, in as many sittings as it takes.

python reproduction/photographs.py [--images 200] [--expensive 24] [--classifiers resnet50]
    [--attacks NAME ...] [--defenses NAME ...]

The experiment `tdips` of config.yaml, image by image, with the package's own stages: every attack,
every feed-forward defense on the first `images` evaluation photographs, restorations on the first
`expensive` ones. Appends the prediction rows to measured/answers.csv; what is there already is not
computed again: stop the script and start it again at any time, on another machine too. In the end,
and with `--images 0` at once, the tables and curves of config.yaml are made of all rows that there
are: a cell has the images whose row it has, so that the cheap defenses have more than the expensive
ones.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations, product
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "scripts"))

import pandas as pd  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402

from tandem_defense import device  # noqa: E402
from tandem_defense.artifacts import style  # noqa: E402
from tandem_defense.artifacts.base import Inputs, Sheet  # noqa: E402
from tandem_defense.attacks.batches import in_batches  # noqa: E402
from tandem_defense.datasets.base import ImageSet  # noqa: E402
from tandem_defense.defenses.base import Defense  # noqa: E402
from tandem_defense.evaluation.rows import Chunk, answers, rows  # noqa: E402
from tandem_defense.files import predictions  # noqa: E402
from tandem_defense.pipeline import artifacts, checkpoint, classes, demand  # noqa: E402
from tandem_defense.pipeline.configuration import with_fractions  # noqa: E402
from tandem_defense.pipeline.entries import to_tensor  # noqa: E402
from tandem_defense.seeds import derive_seed  # noqa: E402

OUTPUT = HERE / "measured/answers.csv"
KEPT = HERE / "results/photographs"  # attacked photographs, weights and checkpoints of trainings
CONFIG = with_fractions(yaml.safe_load((HERE / "config.yaml").read_text(encoding="utf-8")))
EXPERIMENT = demand.Experiment("tdips", CONFIG["experiments"]["tdips"])
SEED = 0
SAME = {"dataset": EXPERIMENT["dataset"]["kind"], "seed": SEED}
COLUMNS = [name for name in predictions.COLUMNS if name not in SAME]
OF = ["classifier", "image", "defense"]
KEY = [*OF, "attack"]
CELLS = list(product(EXPERIMENT["defenses"], EXPERIMENT.attacks()))


def weighted(section: str, name: str) -> nn.Module:
    """An entry's module, with the weights of its files."""
    module = classes.build(EXPERIMENT.entry(section, name), SEED)
    files = demand.checkpoint(section, EXPERIMENT[section][name])
    if files:
        own = demand.own_weights(EXPERIMENT[section][name])
        module.read_checkpoint(*(str(HERE / (f if own else f"inputs/{f}")) for f in files))
    return module.eval()


class Defenses:
    """The defenses by name, trained when they are asked for the first time."""

    def __init__(self, classifier: str, net: nn.Module, train: ImageSet, where: torch.device):
        self.classifier, self.net, self.train, self.where = classifier, net, train, where
        self.known: dict[str, Defense] = {}

    def __getitem__(self, name: str) -> Defense:
        if name not in self.known:
            defense = weighted("defenses", name).to(self.where)
            entry = EXPERIMENT.entry("defenses", name)
            if "training" in entry:
                self.fit(defense, name, entry)
            self.known[name] = defense.eval().requires_grad_(False)
        return self.known[name]

    def fit(self, defense: Defense, name: str, entry: dict) -> None:
        """Train it, or take what an earlier run has trained."""
        against = EXPERIMENT.trained_against(name, self.classifier)
        file = KEPT / f"{name}-{against or 'any'}.safetensors"
        if file.exists():
            defense.load_state_dict(load_file(file))
            return
        x = to_tensor(self.train.images).to(self.where)
        y = torch.from_numpy(self.train.labels).to(self.where)
        extra = {"classifier": self.net} if against == self.classifier else {}
        with checkpoint.kept(file.with_suffix(".checkpoint"), entry):
            defense.fit(x, y, seed=SEED, **entry["training"], **extra)
            save_file({k: v.contiguous() for k, v in defense.state_dict().items()}, file)


def chunk(
    classifier: str, attack: str, photo: ImageSet, net: nn.Module, where: torch.device
) -> Chunk:
    """One photograph, clean or attacked, kept once attacked."""
    x, y = to_tensor(photo.images), torch.from_numpy(photo.labels)
    if attack == demand.CLEAN:
        columns = {"linf": torch.zeros(1), "l2": torch.zeros(1)}
        columns |= {"clean_prediction": net.predict(x)}
        found = {name: values.cpu().numpy() for name, values in columns.items()}
    else:
        file = KEPT / f"attacked/{classifier}/{attack}/{photo.ids[0]}.safetensors"
        if not file.exists():
            tool = classes.build(EXPERIMENT.entry("attacks", attack))
            made = in_batches(tool, net, x, y, [derive_seed(SEED, photo.ids[0])], where)
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({key: torch.from_numpy(made[key]).contiguous() for key in made}, file)
        found = {name: values.numpy() for name, values in load_file(file).items()}
        x = torch.from_numpy(found["images"])
    names = ("clean_prediction", "success", "linf", "l2")
    columns = {name: found[name] for name in names if name in found} | {"label": photo.labels}
    return Chunk(x, photo.ids, columns)


def restored(
    classifier: str, attack: str, defense: str, photo: Chunk, net: nn.Module
) -> Iterator[pd.DataFrame]:
    """The rows of a restoration at every read-out."""
    asked = EXPERIMENT.computed(defense, classifier, attack)
    entry = EXPERIMENT.entry("defenses", defense)
    steps = {"iterations": asked["iterations"][-1]}
    if asked["first_iterations"]:
        steps["first_iterations"] = asked["first_iterations"]
    module = classes.build(entry | {"settings": entry["settings"] | steps}, SEED)
    for read in module.trace(photo.images, photo.ids, asked["iterations"]):
        names = {"first_iterations": read.first_iterations, "iteration": read.iteration}
        names |= SAME | {"classifier": classifier, "attack": attack, "defense": defense}
        bare = photo.columns["clean_prediction"]
        yield rows(photo, names, bare, net.predict(read.images).cpu().numpy())


def known(
    classifier: str,
    attack: str,
    defense: str,
    attacked: Callable[[str], Chunk],
    table: pd.DataFrame,
) -> pd.DataFrame | None:
    """The rows of a restoration where another attack has ended with the very same image.

    BIM and MI-FGSM often do, and no attack touches what the bare classifier gets wrong. A
    restoration depends on the image and its seed, and on nothing else.
    """
    photo, asked = attacked(attack), EXPERIMENT.computed(defense, classifier, attack)
    count = len(asked["iterations"]) * max(1, len(asked["first_iterations"]))
    mine = table[OF].eq([classifier, photo.ids[0], defense]).all(axis=1)
    read = table[mine & table["iteration"].isin(asked["iterations"])]
    for other, found in read.groupby("attack"):
        if len(found) == count and torch.equal(attacked(other).images, photo.images):
            own = {name: values[0] for name, values in photo.columns.items()}
            if attack == demand.CLEAN:
                own["success"] = own["clean_prediction"] != own["label"]  # as in evaluation/rows.py
            return found.assign(attack=attack, **own)
    return None


def wanted(
    classifier: str, cheap: int, expensive: int, attacks: list[str], defenses: list[str]
) -> Iterator[tuple[int, str, str]]:
    """(image, attack, defense), photograph by photograph, what is cheap before what is not."""
    feed_forward = EXPERIMENT.feed_forward(classifier)
    for image in range(cheap):
        for attack in attacks:
            for defense, of in feed_forward.items():
                if attack in of and defense in defenses:
                    yield image, attack, defense
    for image in range(expensive):
        for defense in reversed(EXPERIMENT.restorations()):  # t-DIPs before DIP alone
            asked = {attack: EXPERIMENT.computed(defense, classifier, attack) for attack in attacks}
            asked = {attack: readouts for attack, readouts in asked.items() if readouts}
            # The most read-outs first: another attack with the same image then has its rows.
            for attack in sorted(asked, key=lambda name: -len(asked[name]["iterations"])):
                if defense in defenses:
                    yield image, attack, defense


def common(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of those images that every cell in `rows` has."""
    cells = ["attack", "defense", "first_iterations", "iteration"]
    counts = rows.groupby("image").size()
    return rows[rows["image"].map(counts) == len(rows[cells].drop_duplicates())]


def tables(rows: pd.DataFrame, folder: Path = OUTPUT.parent) -> None:
    """table1.csv and its companions in `folder`, made by the classes that the workflow uses.

    A cell of Table 1 has the images whose row it has; two defenses are compared on the images of
    both, and the claims are judged on those that all cells have.
    """
    rows = rows.assign(**SAME).astype(predictions.TYPES)
    groups: dict[str, list[pd.DataFrame]] = {"table1": [], "table1_comparisons": [], "claims": []}
    for _, answered in rows.groupby("classifier", sort=False):
        parts = dict(list(answered.groupby(["defense", "attack"], observed=True)))
        groups["table1"] += [parts[cell] for cell in CELLS if cell in parts]
        for a, b in combinations(EXPERIMENT["defenses"], 2):
            for attack in EXPERIMENT.attacks():
                pair = [parts[d, attack] for d in (a, b) if (d, attack) in parts]
                groups["table1_comparisons"] += [pd.concat(pair)] if len(pair) == 2 else []
        if {"dip", "tdips"} <= {*answered["defense"]}:  # its curves need both
            groups["claims"].append(answered)
    for artifact in artifacts.of(CONFIG, "tables"):
        params, found = artifact.params(HERE.parent), []
        for part in groups.get(artifact.name, []):
            if artifact.name != "claims":
                part = part[~part["defense"].isin(artifact.entry["omit"])]
            part = common(part)
            if part["defense"].nunique() < (1 if artifact.name == "table1" else 2):
                continue  # what the table omits, or no image that both have
            inputs = Inputs({}, shipped=params["published"])
            inputs.predictions = part
            found.append(classes.build(params["entry"]).frame(inputs, Sheet(**params["sheet"])))
        if found:
            pd.concat(found).to_csv(folder / f"{artifact.name}.csv", index=False)


def curves(rows: pd.DataFrame, folder: Path = OUTPUT.parent) -> None:
    """The figures of the kind `curve`, as PNG, of the images that all of their lines have."""
    rows = rows.assign(**SAME).astype(predictions.TYPES)
    for artifact in artifacts.of(CONFIG, "figures"):
        entry, params = artifact.entry, artifact.params(HERE.parent)
        if entry["kind"] != "curve":
            continue
        part = rows[
            rows["classifier"].eq(entry["classifier"])
            & rows["attack"].isin([demand.CLEAN, *entry["attacks"]])
            & rows["defense"].isin(["none", *entry["defenses"]])
        ]
        part = part[part["attack"].ne(demand.CLEAN) | part["defense"].eq("none")]
        if not {*entry["defenses"]} <= set(part["defense"]):
            continue
        inputs = Inputs({})
        inputs.predictions = common(part)
        if not inputs.predictions.empty:
            drawing, _ = classes.build(params["entry"]).draw(inputs, Sheet(**params["sheet"]))
            style.save(drawing, folder / f"{artifact.name}.png")


def main() -> None:
    """Answer what is not in the CSV yet, then make the tables and figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    named = {"classifiers": list(EXPERIMENT["classifiers"]), "attacks": EXPERIMENT.attacks()}
    named |= {"defenses": list(EXPERIMENT["defenses"])}
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--expensive", type=int, default=24)
    for key, names in named.items():
        parser.add_argument(f"--{key}", nargs="*", choices=names, default=names)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    where = device.prepare(options.threads)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    table = pd.read_csv(OUTPUT) if OUTPUT.exists() else pd.DataFrame(columns=COLUMNS)
    done = set(table[KEY].itertuples(index=False, name=None))
    told = EXPERIMENT.dataset()
    told["settings"]["folder"] = str(HERE / told["settings"]["folder"])
    data = classes.build(told).load()
    for classifier in options.classifiers:
        net = weighted("classifiers", classifier).to(where).requires_grad_(False)
        defenses = Defenses(classifier, net, data["train"], where)
        counts = options.images, min(options.images, options.expensive)
        for i, attack, defense in wanted(classifier, *counts, options.attacks, options.defenses):
            photo = data["test"][i : i + 1]
            if (classifier, photo.ids[0], defense, attack) in done:
                continue
            attacked = partial(chunk, classifier, photo=photo, net=net, where=where)
            shown = attacked(attack)
            if defense in EXPERIMENT.restorations():
                found = known(classifier, attack, defense, attacked, table)
                parts = (
                    restored(classifier, attack, defense, shown, net) if found is None else [found]
                )
            else:
                names = SAME | {"classifier": classifier, "attack": attack, "defense": defense}
                found = answers(net, defenses[defense], shown.images, shown.ids, where)
                parts = [rows(shown, names, shown.columns["clean_prediction"], *found)]
            new = pd.concat(parts)[COLUMNS]
            table = pd.concat([table, new], ignore_index=True)
            new.to_csv(OUTPUT, mode="a", header=not OUTPUT.exists(), index=False)
            right = new["prediction"].eq(new["label"]).tolist()
            print(classifier, photo.ids[0], attack, defense, right, flush=True)
    tables(table)
    curves(table)


if __name__ == "__main__":
    main()
