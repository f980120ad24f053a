"""How the demo's setting was found: t-DIPs, DIP and blur on tuning patches that no table shows.

python demo/search.py            about ten minutes on one core; continues where it was stopped
writes demo/search.csv (a row per setting, defense and read-out) and docs/demo_search.md.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import pandas as pd  # noqa: E402
import torch  # noqa: E402

from tandem_defense import device  # noqa: E402
from tandem_defense.attacks.iterative import BIM  # noqa: E402
from tandem_defense.classifiers.small import SmallCNN  # noqa: E402
from tandem_defense.datasets.photos import Photos  # noqa: E402
from tandem_defense.defenses.controls import AverageBlur  # noqa: E402
from tandem_defense.defenses.dip import DIP, TandemDIP  # noqa: E402
from tandem_defense.evaluation.statistics import wilson  # noqa: E402
from tandem_defense.seeds import derive_seed  # noqa: E402
from tandem_defense.stages.models import to_tensor  # noqa: E402

CHOSEN = {"noise": 0.1, "epsilon": 8, "feature_scale": 16, "smoothing": 0.9}
SETTINGS = [
    CHOSEN,
    CHOSEN | {"noise": 0.0},
    CHOSEN | {"epsilon": 4},
    CHOSEN | {"feature_scale": 32},
    CHOSEN | {"smoothing": 0.99},
]
READOUTS = list(range(20, 121, 20))
FIRST = (20, 60)
OUTPUT = ROOT / "demo/search.csv"
KEYS = list(CHOSEN)


def classifier(noise: float, splits: dict) -> SmallCNN:
    """The demo's small classifier, trained with noise up to this standard deviation."""
    net = SmallCNN(classes=7, width=16)
    x, y = to_tensor(splits["train"].images), torch.from_numpy(splits["train"].labels)
    net.fit(x, y, seed=0, epochs=10, noise=noise, blur=0.3 if noise else 0.0)
    return net


def outcomes(setting: dict, net: SmallCNN, tune) -> list[dict]:
    """Rows of one setting: what every defense makes of BIM's images."""
    x, y = to_tensor(tune.images), torch.from_numpy(tune.labels)
    attack = BIM(semantics="corner", epsilon=setting["epsilon"] / 255)
    attacked = attack(net, x, y, seeds=[derive_seed(0, name) for name in tune.ids]).images
    rows = []

    def add(defense, images, first=0, iteration=0):
        right = int((net.predict(images) == y).sum())
        low, high = wilson(right, len(y))
        point = {"defense": defense, "first_iterations": first, "iteration": iteration}
        rows.append(setting | point | {"right": right, "n": len(y), "low": low, "high": high})

    add("none, clean", x)
    add("none", attacked)
    add("blur", AverageBlur()(attacked))
    shared = {"feature_scale": setting["feature_scale"], "smoothing": setting["smoothing"]}
    defenses = {
        "dip": DIP(**shared),
        "tdips": TandemDIP(first_iterations=FIRST, first_width=0.25, **shared),
    }
    for name, defense in defenses.items():
        whole = {}
        for found in defense.trace(attacked, tune.ids, READOUTS):
            point = found.first_iterations, found.iteration
            whole.setdefault(point, torch.empty_like(attacked))[found.positions] = found.images
        for point in sorted(whole):
            add(name, whole[point], *point)
    return rows


def page(table: pd.DataFrame) -> str:
    """docs/demo_search.md."""
    lines = [
        "# The search behind the demo's setting",
        "",
        "Made by `python demo/search.py` from the `tune` patches, which no table shows; all counts",
        f"are of {table['n'].max()} patches under BIM (`corner`). `demo/search.csv` has every",
        "read-out with its Wilson interval.",
        "",
        "| training noise | ε | feature scale | smoothing | clean | undefended | blur"
        " | DIP, best (at) | t-DIPs, best (λ₁, λ₂) | t-DIPs at λ₁ 20, λ₂ 100 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for setting, group in table.groupby(KEYS, sort=False):
        noise, epsilon, scale, smoothing = setting
        plain = {d: group[group["defense"] == d]["right"].max() for d in group["defense"].unique()}
        best = {
            d: group[group["defense"] == d]
            .sort_values("right", ascending=False, kind="stable")
            .iloc[0]
            for d in ("dip", "tdips")
        }
        point = group["defense"].eq("tdips") & group["first_iterations"].eq(20)
        (table_point,) = group[point & group["iteration"].eq(100)]["right"]
        dip, tdips = best["dip"], best["tdips"]
        lines.append(
            f"| {noise:g} | {epsilon:g}/255 | {scale:g} | {smoothing:g} | {plain['none, clean']}"
            f" | {plain['none']} | {plain['blur']} | {dip['right']} ({dip['iteration']})"
            f" | {tdips['right']} ({tdips['first_iterations']}, {tdips['iteration']})"
            f" | {table_point} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the settings that are not in the CSV yet, then write the page."""
    device.prepare(threads=1)
    splits = Photos(size=64, regions=4).load()
    table = pd.read_csv(OUTPUT) if OUTPUT.exists() else pd.DataFrame(columns=KEYS)
    nets = {}
    for setting in SETTINGS:
        if (table[KEYS] == pd.Series(setting)).all(axis=1).any():
            continue
        print("searching", setting, flush=True)
        if setting["noise"] not in nets:
            nets[setting["noise"]] = classifier(setting["noise"], splits)
        rows = pd.DataFrame(outcomes(setting, nets[setting["noise"]], splits["tune"]))
        table = pd.concat([table, rows], ignore_index=True) if len(table) else rows
        table.to_csv(OUTPUT, index=False)
    counts = ["epsilon", "feature_scale", "first_iterations", "iteration", "right", "n"]
    table = table.astype(dict.fromkeys(counts, int))
    table.to_csv(OUTPUT, index=False)
    (ROOT / "docs/demo_search.md").write_text(page(table))


if __name__ == "__main__":
    main()
