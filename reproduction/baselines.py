"""How HGD and ComDefend are to be trained on few photographs.

python reproduction/baselines.py [--threads 1] [--settings NAME ...]

The photographs after the 200 that every table evaluates: on 40 of them every setting is measured,
160 or, where it says so, 760 train (then inputs/nips2017dev/ has all 1000). Table 1 has the best
ones (`tdips` in config.yaml), trained on the same 160. Writes
measured/baselines.csv, a row per setting and attack, beside the bare classifier and, where
`inputs/comdefend/` has its files, the released ComDefend. What is there already is not computed
again, and a training goes on where it was: stop the script and start it again at any time.
"""

import argparse
import logging
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "scripts"))

import pandas as pd  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import Tensor  # noqa: E402

from tandem_defense import device  # noqa: E402
from tandem_defense.attacks.deepfool import DeepFoolLinf  # noqa: E402
from tandem_defense.attacks.gradient import FGSM  # noqa: E402
from tandem_defense.attacks.iterative import BIM  # noqa: E402
from tandem_defense.classifiers.torchvision import Torchvision  # noqa: E402
from tandem_defense.datasets.base import ImageSet  # noqa: E402
from tandem_defense.datasets.nips2017 import NIPS2017  # noqa: E402
from tandem_defense.defenses.base import Defense, NoDefense  # noqa: E402
from tandem_defense.defenses.comdefend import ComDefend  # noqa: E402
from tandem_defense.defenses.hgd import HGD  # noqa: E402
from tandem_defense.pipeline import checkpoint  # noqa: E402
from tandem_defense.pipeline.entries import to_tensor  # noqa: E402
from tandem_defense.seeds import derive_seed  # noqa: E402

OUTPUT = HERE / "measured/baselines.csv"
KEPT = HERE / "results/baselines"  # attacked images, weights and checkpoints of trainings
RELEASED = [HERE / "inputs" / name for name in ComDefend.CHECKPOINT]
HELD_OUT = slice(160, 200)  # of the photographs after the evaluated ones
FEW, ALL = 160, 760  # which train
ATTACKS = {  # Table 1's but for MI-FGSM and C&W, and FGSM with its whole bound
    "clean": None,
    "FGSM minimal": FGSM(semantics="minimal", epsilon=8 / 255),
    "DeepFool": DeepFoolLinf(clip=8 / 255),
    "FGSM": FGSM(semantics="fixed", epsilon=8 / 255),
    "BIM": BIM(semantics="corner", epsilon=8 / 255),
}
COLUMNS = ["setting", "attack", "n", "correct"]


def hgd(rate: float, squares: int, whole: int, count: int = FEW) -> tuple:
    """(class, settings, training, photographs): a quarter of the release's channels, for a CPU."""
    training = {"learning_rate": rate, "crop_epochs": squares, "epochs": whole, "batch_size": 8}
    return HGD, {"widths": (16, 32, 64, 64, 64)}, training, count


# In the order of the search: squares or whole photographs, then the length, then more of them.
SETTINGS = {
    "none": (NoDefense, {}, None, 0),
    "ComDefend, released": (ComDefend, {"weights": "released"}, None, 0),
    "HGD, rate 3e-4, 6 + 3": hgd(3e-4, 6, 3),
    "HGD, rate 1e-3, 2 + 12": hgd(1e-3, 2, 12),
    "HGD, rate 1e-3, 2 + 40": hgd(1e-3, 2, 40),
    # One square of 32 × 32 pixels of each photograph an epoch.
    "ComDefend, 100 epochs": (ComDefend, {}, {"epochs": 100}, FEW),
    "ComDefend, 600 epochs on plateaus": (
        ComDefend,
        {},
        {"epochs": 600, "schedule": "plateaus", "precision": "bf16"},
        FEW,
    ),
    "HGD, rate 1e-3, 2 + 8, 760 photographs": hgd(1e-3, 2, 8, ALL),
}


def photographs(count: int) -> tuple[ImageSet, Tensor, Tensor]:
    """Those held out, and the images and labels of the first `count` others."""
    train = 200 if count <= FEW else 800
    data = NIPS2017(folder=str(HERE / "inputs/nips2017dev"), test=200, train=train).load()["train"]
    others = [*range(HELD_OUT.start), *range(HELD_OUT.stop, len(data.ids))]
    return data[HELD_OUT], to_tensor(data.images[others]), torch.from_numpy(data.labels[others])


def trained(name: str, net: Torchvision, photos: tuple[Tensor, Tensor]) -> Defense:
    """The defense, kept once trained."""
    kind, settings, training, count = SETTINGS[name]
    defense = kind(**settings)
    if name == "ComDefend, released":
        defense.read_checkpoint(*map(str, RELEASED))
    if training is None:
        return defense.eval()
    file = KEPT / f"{name.replace(',', '').replace(' ', '-')}.safetensors"
    if file.exists():
        defense.load_state_dict(load_file(file))
        return defense.eval()
    photos = tuple(part[:count] for part in photos)
    job = {"settings": settings, "training": training, "images": count}
    extra = {"classifier": net} if kind is HGD else {}
    with checkpoint.kept(file.with_suffix(".checkpoint"), job):
        defense.fit(*photos, seed=0, **training, **extra)
        save_file({k: v.contiguous() for k, v in defense.state_dict().items()}, file)
    return defense


def attacked(attack: str, name: str, net: Torchvision, x: Tensor, y: Tensor) -> Tensor:
    """The photograph x, (1, 3, H, W), attacked; kept once made."""
    make = ATTACKS[attack]
    if make is None or bool(net.predict(x) != y):  # as in the tables: nothing to be done
        return x
    file = KEPT / f"attacked/{attack}/{name}.safetensors"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"image": make(net, x, y, seeds=[derive_seed(0, name)]).images}, file)
    return load_file(file)["image"]


@torch.no_grad()
def right(defense: Defense, attack: str, net: Torchvision, part, where: torch.device) -> int:
    """How many photographs are classified correctly behind the defense."""
    total = 0
    for i, name in enumerate(part.ids):
        x = to_tensor(part.images[i : i + 1]).contiguous().to(where)
        y = torch.from_numpy(part.labels[i : i + 1]).to(where)
        with torch.enable_grad():
            z = attacked(attack, name, net, x, y).to(where)
        total += int(net(defense(z, [name])).argmax(1) == y)
    return total


def main() -> None:
    """Measure what is not in the CSV yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", nargs="*", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    where = device.prepare(options.threads)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    KEPT.mkdir(parents=True, exist_ok=True)
    net = Torchvision(architecture="resnet50").eval()
    net.read_checkpoint(str(HERE / "inputs/resnet50.safetensors"))
    net = net.to(where)
    held, *photos = photographs(max(SETTINGS[name][3] for name in options.settings))
    photos = tuple(part.to(where) for part in photos)
    table = pd.read_csv(OUTPUT) if OUTPUT.exists() else pd.DataFrame(columns=COLUMNS)
    for name in options.settings:
        if name == "ComDefend, released" and not all(file.exists() for file in RELEASED):
            print("ComDefend, released: left out, its files are not in inputs/comdefend/")
            continue
        known = set(table.loc[table["setting"] == name, "attack"])
        if known.issuperset(ATTACKS):
            continue
        defense = trained(name, net, photos).to(where)
        for attack in ATTACKS:
            if attack not in known:
                row = [name, attack, len(held.ids), right(defense, attack, net, held, where)]
                table = pd.concat([table, pd.DataFrame([row], columns=COLUMNS)], ignore_index=True)
                table.to_csv(OUTPUT, index=False)
                print(*row, flush=True)


if __name__ == "__main__":
    main()
