"""Table 1 on as many photographs as the hours give, in as many sittings as it takes.

python reproduction/photographs.py [--images 200] [--expensive 24] [--attacks NAME ...]

The experiment `tdips` of config.yaml, image by image, with the package's own stages: every attack,
every feed-forward defense on the first `images` evaluation photographs, restorations on the first
`expensive` ones. Appends the prediction rows to measured/answers.csv; what is there already is not
computed again: stop the script and start it again at any time, on another machine too. In the end,
and with `--images 0` at once, the tables of config.yaml are made of all rows that there are: a cell
has the images whose row it has, so that the cheap defenses have more than the expensive ones.
"""

import argparse
import logging
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "scripts"))

import pandas as pd  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402

from tandem_defense import device  # noqa: E402
from tandem_defense.artifacts.base import Inputs, Sheet  # noqa: E402
from tandem_defense.attacks.batches import in_batches  # noqa: E402
from tandem_defense.datasets.base import ImageSet  # noqa: E402
from tandem_defense.defenses.base import Defense  # noqa: E402
from tandem_defense.evaluation.rows import Chunk, answers, rows  # noqa: E402
from tandem_defense.files import predictions  # noqa: E402
from tandem_defense.pipeline import artifacts, checkpoint, classes, demand  # noqa: E402
from tandem_defense.pipeline.entries import to_tensor  # noqa: E402
from tandem_defense.seeds import derive_seed  # noqa: E402

OUTPUT = HERE / "measured/answers.csv"
KEPT = HERE / "results/photographs"  # attacked photographs, weights and checkpoints of trainings
CONFIG = yaml.safe_load((HERE / "config.yaml").read_text(encoding="utf-8"))
EXPERIMENT = demand.Experiment("tdips", CONFIG["experiments"]["tdips"])
CLASSIFIER = "resnet50"
SEED = 0
SAME = {"dataset": EXPERIMENT["dataset"]["kind"], "classifier": CLASSIFIER, "seed": SEED}
COLUMNS = [name for name in predictions.COLUMNS if name not in SAME]
KEY = ["image", "attack", "defense"]


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

    def __init__(self, net: nn.Module, train: ImageSet, where: torch.device):
        self.net, self.train, self.where, self.known = net, train, where, {}

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
        file = KEPT / f"{name}.safetensors"
        if file.exists():
            defense.load_state_dict(load_file(file))
            return
        x = to_tensor(self.train.images).to(self.where)
        y = torch.from_numpy(self.train.labels).to(self.where)
        against = EXPERIMENT.trained_against(name, CLASSIFIER) == CLASSIFIER
        extra = {"classifier": self.net} if against else {}
        with checkpoint.kept(file.with_suffix(".checkpoint"), entry):
            defense.fit(x, y, seed=SEED, **entry["training"], **extra)
            save_file({k: v.contiguous() for k, v in defense.state_dict().items()}, file)


def chunk(attack: str, photo: ImageSet, net: nn.Module, where: torch.device) -> Chunk:
    """One photograph, clean or attacked, kept once attacked."""
    x, y = to_tensor(photo.images), torch.from_numpy(photo.labels)
    if attack == demand.CLEAN:
        columns = {"linf": torch.zeros(1), "l2": torch.zeros(1)}
        columns |= {"clean_prediction": net.predict(x)}
        found = {name: values.cpu().numpy() for name, values in columns.items()}
    else:
        file = KEPT / f"attacked/{attack}/{photo.ids[0]}.safetensors"
        if not file.exists():
            tool = classes.build(EXPERIMENT.entry("attacks", attack))
            made = in_batches(tool, net, x, y, [derive_seed(SEED, photo.ids[0])], where)
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: torch.from_numpy(values) for name, values in made.items()}, file)
        found = {name: values.numpy() for name, values in load_file(file).items()}
        x = torch.from_numpy(found["images"])
    names = ("clean_prediction", "success", "linf", "l2")
    columns = {name: found[name] for name in names if name in found} | {"label": photo.labels}
    return Chunk(x, photo.ids, columns)


def restored(defense: str, attack: str, photo: Chunk, net: nn.Module) -> Iterator[pd.DataFrame]:
    """The rows of a restoration at every read-out."""
    asked = EXPERIMENT.computed(defense, CLASSIFIER, attack)
    entry = EXPERIMENT.entry("defenses", defense)
    steps = {"iterations": asked["iterations"][-1]}
    if asked["first_iterations"]:
        steps["first_iterations"] = asked["first_iterations"]
    module = classes.build(entry | {"settings": entry["settings"] | steps}, SEED)
    for read in module.trace(photo.images, photo.ids, asked["iterations"]):
        names = {"first_iterations": read.first_iterations, "iteration": read.iteration}
        names |= SAME | {"attack": attack, "defense": defense}
        bare = photo.columns["clean_prediction"]
        yield rows(photo, names, bare, net.predict(read.images).cpu().numpy())


def wanted(cheap: int, expensive: int, attacks: list[str]) -> Iterator[tuple[int, str, str]]:
    """(image, attack, defense), photograph by photograph, what is cheap before what is not."""
    feed_forward = EXPERIMENT.feed_forward(CLASSIFIER)
    for image in range(cheap):
        for attack in attacks:
            for defense, of in feed_forward.items():
                if attack in of:
                    yield image, attack, defense
    for image in range(expensive):
        for defense in reversed(EXPERIMENT.restorations()):  # t-DIPs before DIP alone
            for attack in attacks:
                if EXPERIMENT.computed(defense, CLASSIFIER, attack):
                    yield image, attack, defense


def common(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of those images that every cell in `rows` has."""
    cells = ["attack", "defense", "first_iterations", "iteration"]
    counts = rows.groupby("image").size()
    return rows[rows["image"].map(counts) == len(rows[cells].drop_duplicates())]


def tables(rows: pd.DataFrame, folder: Path = OUTPUT.parent) -> None:
    """table1.csv and its companions in `folder`, made by the classes that the workflow uses.

    A defense's cells in Table 1 have the images that all of them have; two defenses are compared on
    the images of both, and the claims are judged on those that all defenses have.
    """
    rows = rows.assign(**SAME).astype(predictions.TYPES)
    defenses = [name for name in EXPERIMENT["defenses"] if rows["defense"].eq(name).any()]
    groups = {
        "table1": [[name] for name in defenses],
        "table1_comparisons": [list(pair) for pair in combinations(defenses, 2)],
        # Its curves need both.
        "claims": [defenses] if {"dip", "tdips"} <= {*defenses} else [],
    }
    for artifact in artifacts.of(CONFIG, "tables"):
        params, found = artifact.params(HERE.parent), []
        for some in groups.get(artifact.name, []):
            part = rows[rows["defense"].isin(some) & ~rows["defense"].isin(artifact.entry["omit"])]
            part = common(part) if artifact.name != "claims" else common(rows)
            if part["defense"].nunique() < min(len(some), 2):
                continue  # what the table omits, or no image that both have
            inputs = Inputs({}, shipped=params["published"])
            inputs.predictions = part
            found.append(classes.build(params["entry"]).frame(inputs, Sheet(**params["sheet"])))
        if found:
            pd.concat(found).to_csv(folder / f"{artifact.name}.csv", index=False)


def main() -> None:
    """Answer what is not in the CSV yet, then make the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--expensive", type=int, default=24)
    parser.add_argument("--attacks", nargs="*", choices=EXPERIMENT.attacks())
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    where = device.prepare(options.threads)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    table = pd.read_csv(OUTPUT) if OUTPUT.exists() else pd.DataFrame(columns=COLUMNS)
    known = set(table[KEY].itertuples(index=False, name=None))
    told = EXPERIMENT.dataset()
    told["settings"]["folder"] = str(HERE / told["settings"]["folder"])
    data = classes.build(told).load()
    net = weighted("classifiers", CLASSIFIER).to(where).requires_grad_(False)
    defenses = Defenses(net, data["train"], where)
    for i, attack, defense in wanted(
        options.images,
        min(options.images, options.expensive),
        options.attacks or EXPERIMENT.attacks(),
    ):
        photo = data["test"][i : i + 1]
        if (photo.ids[0], attack, defense) in known:
            continue
        shown = chunk(attack, photo, net, where)
        if defense in EXPERIMENT.restorations():
            parts = list(restored(defense, attack, shown, net))
        else:
            names = SAME | {"attack": attack, "defense": defense}
            found = answers(net, defenses[defense], shown.images, shown.ids, where)
            parts = [rows(shown, names, shown.columns["clean_prediction"], *found)]
        new = pd.concat(parts)[COLUMNS]
        table = pd.concat([table, new], ignore_index=True)
        new.to_csv(OUTPUT, mode="a", header=not OUTPUT.exists(), index=False)
        print(
            *(photo.ids[0], attack, defense),
            new["prediction"].eq(new["label"]).tolist(),
            flush=True,
        )
    tables(table)


if __name__ == "__main__":
    main()
