"""How the demo's HGD and ComDefend were set: what half a minute of training makes of each.

python demo/baselines.py         continues where it was stopped
writes demo/baselines.csv (a row per setting and images) and docs/demo_baselines.md.

Every setting is the demo's entry, demo/config.yaml, with a change. A row says the whole of it:
what was measured with another entry is measured again.
"""

import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "demo")]

import pandas as pd  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from search import classifier, count  # noqa: E402

from tandem_defense import device  # noqa: E402
from tandem_defense.attacks.deepfool import DeepFoolLinf  # noqa: E402
from tandem_defense.attacks.gradient import FGSM  # noqa: E402
from tandem_defense.attacks.iterative import BIM  # noqa: E402
from tandem_defense.datasets.photos import Photos  # noqa: E402
from tandem_defense.defenses.comdefend import ComDefend  # noqa: E402
from tandem_defense.defenses.hgd import HGD  # noqa: E402
from tandem_defense.pipeline.entries import to_tensor  # noqa: E402
from tandem_defense.seeds import derive_seed  # noqa: E402

DEFENSES = {"hgd": HGD, "comdefend": ComDefend}
EPSILON = 8 / 255
ATTACKS = {
    "FGSM": FGSM(semantics="minimal", epsilon=EPSILON),
    "DeepFool": DeepFoolLinf(clip=EPSILON),
    "BIM": BIM(semantics="corner", epsilon=EPSILON),
}
# What is tried, as changes of the demo's entry and of its training.
DEEP = {
    "widths": [8, 16, 32, 32, 32],
    "forward_depths": [2, 3, 3, 3, 3],
    "backward_depths": [2, 3, 3, 3],
}
FLAT = {"widths": [8, 16, 16], "forward_depths": [1, 1, 1], "backward_depths": [1, 1]}
TRIED = {
    "hgd": {
        "the demo's": ({}, {}),
        "the release's depths, batches of 32 at 1e-2": (
            DEEP,
            {"batch_size": 32, "learning_rate": 1e-2},
        ),
        "the release's depths, batches of 8 at 3e-3": (
            DEEP,
            {"batch_size": 8, "learning_rate": 3e-3},
        ),
        "three levels of one layer, 2 epochs of batches of 8": (
            FLAT,
            {"epochs": 2, "batch_size": 8},
        ),
    },
    "comdefend": {
        "the demo's": ({}, {}),
        "squares of 32 pixels, 4 epochs of batches of 20 at 1e-3": (
            {},
            {"patch": 32, "epochs": 4, "batch_size": 20, "learning_rate": 1e-3},
        ),
        "squares of 32 pixels, 4 epochs": ({}, {"patch": 32, "epochs": 4}),
        "12 epochs of batches of 20": ({}, {"epochs": 12, "batch_size": 20}),
    },
}
KEYS = ["defense", "setting", "entry"]
OUTPUT = ROOT / "demo/baselines.csv"
PAGE = ROOT / "docs/demo_baselines.md"


def page(table: pd.DataFrame, labels: dict[str, str]) -> str:
    """docs/demo_baselines.md."""
    images = ["clean", *ATTACKS]
    lines = [
        "# How the demo's HGD and ComDefend were set",
        "",
        "Made by `python demo/baselines.py` from the `tune` patches, which no table shows.",
        f"Numbers are how many of {table['n'].max()} patches are classified correctly: clean, and",
        "attacked as in Table 1. Seconds are those of one core that did something else beside it.",
        "",
        f"| defense | setting | seconds | {' | '.join(images)} |",
        f"|---|---|---|{'---|' * len(images)}",
    ]
    for (name, setting), rows in table.groupby(["defense", "setting"], sort=False):
        correct = rows.set_index("images")["correct"]
        cells = [labels.get(name, "–"), setting, f"{rows['seconds'].iloc[0]:.0f}"]
        lines.append(f"| {' | '.join([*cells, *(str(correct[i]) for i in images)])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train with the settings that are not in the CSV yet, then write the page."""
    device.prepare(threads=1, device="cpu")
    config = yaml.safe_load((ROOT / "demo/config.yaml").read_text(encoding="utf-8"))
    experiment = config["experiments"]["tdips"]
    told = {k: v for k, v in experiment["dataset"].items() if k != "kind"}
    splits = Photos(**told).load()
    tune, net = splits["tune"], classifier(splits).requires_grad_(False)
    x, y = to_tensor(tune.images).contiguous(), torch.from_numpy(tune.labels)
    images, labels = to_tensor(splits["train"].images), torch.from_numpy(splits["train"].labels)
    seeds = [derive_seed(0, name) for name in tune.ids]
    sets = {"clean": x} | {name: a(net, x, y, seeds=seeds).images for name, a in ATTACKS.items()}
    table = pd.read_csv(OUTPUT) if OUTPUT.exists() else pd.DataFrame(columns=KEYS)
    for name, tried in TRIED.items():
        entry = experiment["defenses"][name]
        own = {k: v for k, v in entry.items() if k not in ("kind", "label", "training")}
        supplied = {"classifier": net} if name == "hgd" else {}
        for setting, (changes, training) in tried.items():
            schedule = entry["training"] | training
            whole = json.dumps(own | changes | {"training": schedule}, sort_keys=True)
            same = (table["defense"] == name) & (table["setting"] == setting)
            if (same & (table["entry"] == whole)).any():
                continue
            table = table[~same]
            defense, start = DEFENSES[name](**own | changes), time.process_time()
            defense.fit(images.contiguous(), labels, seed=0, **schedule, **supplied)
            row = {"defense": name, "setting": setting, "entry": whole}
            row |= {"seconds": time.process_time() - start}
            with torch.no_grad():
                correct = {k: count(net, defense(z, tune.ids), y) for k, z in sets.items()}
            rows = pd.DataFrame([row | {"images": k, "correct": c} for k, c in correct.items()])
            table = pd.concat([table, rows.assign(n=len(y))], ignore_index=True)
            table = table.astype({"correct": int, "n": int}).round({"seconds": 1})
            table.to_csv(OUTPUT, index=False)
            print(name, setting, correct, flush=True)
    names = {name: experiment["defenses"][name]["label"] for name in DEFENSES}
    PAGE.write_text(page(table, names), encoding="utf-8")


if __name__ == "__main__":
    main()
