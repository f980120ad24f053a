"""What t-DIPs' two networks learn, step by step, for whatever the paper leaves open about them.

python reproduction/tandem.py [--images 12] [--threads 1] [--runs NAME ...]

The first photographs after the 200 that every table evaluates that the ResNet-50 classifies
correctly and BIM fools. Each is attacked and fitted by DIP₁, by the tandem or by DIP alone; at
every read-out the script asks the classifier about the network's output, and about three moving
averages of its outputs. Writes measured/tandem.csv, a row per run, image, read-out and average.
What is there already is not computed again: stop the script and start it again at any time.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "scripts"))

import pandas as pd  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import Tensor  # noqa: E402

from tandem_defense import device  # noqa: E402
from tandem_defense.attacks.gradient import FGSM  # noqa: E402
from tandem_defense.attacks.iterative import BIM, MIFGSM  # noqa: E402
from tandem_defense.classifiers.torchvision import Torchvision  # noqa: E402
from tandem_defense.datasets.nips2017 import NIPS2017  # noqa: E402
from tandem_defense.pipeline.entries import to_tensor  # noqa: E402
from tandem_defense.restoration.engine import fit  # noqa: E402
from tandem_defense.restoration.reference import (  # noqa: E402
    Z_CHANNELS,
    FitSettings,
    Task,
    dip1,
    dip2,
)
from tandem_defense.seeds import derive_seed  # noqa: E402

OUTPUT = HERE / "measured/tandem.csv"
KEPT = HERE / "results/tandem"  # attacked images, DIP₁'s outputs, some restored images
ATTACKS = {
    "clean": None,
    "FGSM": FGSM(semantics="minimal", epsilon=8 / 255),
    "BIM": BIM(semantics="corner", epsilon=8 / 255),
    "MI-FGSM": MIFGSM(semantics="corner", epsilon=8 / 255),
}
FIRST = {"norm": "affine"}  # DIP₁
SECOND = {"feature_scale": 8, "norm": "instance"}  # DIP₂, also DIP alone
FIRST_STEPS = (25, 50, 100, 200, 300)
STEPS = (25, 50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 800, 900, 1000, 1250, 1500)


def run(network: str, attack: str = "BIM", steps: int = 1000, length: int = 100, **settings):
    """One row of RUNS: `network` on the images of `attack`, for so many `steps`.

    length : λ₁, of a tandem. Settings that begin with ``first_`` are DIP₁'s.
    """
    first = FIRST | {k[6:]: v for k, v in settings.items() if k.startswith("first_")}
    second = SECOND | {k: v for k, v in settings.items() if not k.startswith("first_")}
    return {
        "network": network,
        "attack": attack,
        "steps": steps,
        "length": length,
        "first": first if network != "dip" else None,
        "second": second if network != "dip1" else None,
    }


# In the order of what they decide.
RUNS = {
    "tandem": run("tandem"),
    "dip": run("dip"),
    "tandem, first_norm none": run("tandem", first_norm="none"),
    "tandem, norm affine": run("tandem", norm="affine"),
    "dip, norm affine": run("dip", norm="affine"),
    "tandem, λ₁ 200": run("tandem", length=200),
    "tandem, λ₁ 300": run("tandem", length=300),
    "tandem, clean": run("tandem", "clean"),
    "dip, clean": run("dip", "clean"),
    "tandem, initial_weights he": run("tandem", first_initial_weights="he", initial_weights="he"),
    "tandem, first_norm none, initial_weights he": run(
        "tandem", first_norm="none", first_initial_weights="he", initial_weights="he"
    ),
    "dip, initial_weights he": run("dip", initial_weights="he"),
    "tandem, feature_scale 4": run("tandem", feature_scale=4),
    "dip, feature_scale 4": run("dip", feature_scale=4),
    "tandem, FGSM": run("tandem", "FGSM"),
    "dip, FGSM": run("dip", "FGSM"),
    "tandem, MI-FGSM": run("tandem", "MI-FGSM"),
    "dip, MI-FGSM": run("dip", "MI-FGSM"),
    # Whose fault are wrong colors: reproduction/colors.py.
    "tandem, clean, first_norm none": run("tandem", "clean", first_norm="none"),
    "tandem, clean, norm affine": run("tandem", "clean", norm="affine"),
    "tandem, first_norm instance": run("tandem", first_norm="instance"),
    "tandem, norm none": run("tandem", norm="none"),
    "dip, norm none": run("dip", norm="none"),
    "tandem, feature_scale 2": run("tandem", steps=500, feature_scale=2),
}
FEWER = {
    "tandem, feature_scale 2": 4,
    "tandem, clean, first_norm none": 4,
    "tandem, clean, norm affine": 4,
}  # images, where a run costs hours


def photographs(net: Torchvision, count: int) -> dict[str, tuple[Tensor, int, Mapping]]:
    """{id: (clean image (3, 299, 299), label, {attack: attacked image})}, kept once made."""
    data = NIPS2017(folder=str(HERE / "inputs/nips2017dev"), test=200, train=200).load()["train"]
    chosen = {}
    for i, name in enumerate(data.ids):
        if len(chosen) == count:
            break
        file = KEPT / f"attacked/{name}.safetensors"
        x = to_tensor(data.images[i : i + 1]).contiguous()
        y = torch.from_numpy(data.labels[i : i + 1])
        if not file.exists():
            found = {"clean": x}
            if bool(net.predict(x) == y):
                for attack, make in ATTACKS.items():
                    if make:
                        result = make(net, x, y, seeds=[derive_seed(0, name)])
                        if attack == "BIM" and not result.success:
                            break
                        found[attack] = result.images
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file(found, file)
        images = load_file(file)
        if "BIM" in images:
            chosen[name] = x[0], int(y), {attack: z[0] for attack, z in images.items()}
    return chosen


class Averages:
    """The latest output of an image's fit and moving averages of all outputs."""

    def __init__(self):
        self.steps, self.since_first, self.corrected, self.short = 0, None, 0, None

    def update(self, output: Tensor) -> None:
        """Take in the next output, (3, H, W)."""
        self.steps += 1
        self.raw = output
        if self.since_first is None:
            self.since_first, self.short = output.clone(), output.clone()
        self.since_first = self.since_first.lerp(output, 0.01)
        self.short = self.short.lerp(output, 0.1)
        self.corrected = 0.99 * self.corrected + 0.01 * output

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """(name, image) of each."""
        yield "none", self.raw
        yield "0.9", self.short
        yield "0.99", self.since_first
        yield "0.99 corrected", self.corrected / (1 - 0.99**self.steps)


def psnr(x: Tensor, y: Tensor) -> float:
    """Peak signal-to-noise ratio in dB."""
    return float(-10 * (x - y).square().mean().log10())


@torch.no_grad()
def measure(net: Torchvision, photograph, attack: str, image: Tensor) -> dict:
    """Is it classified correctly, how surely, how near to the clean and to the attacked image."""
    clean, label, attacked = photograph
    probability = net(image[None]).softmax(1)[0]
    return {
        "correct": int(probability.argmax() == label),
        "probability": float(probability[label]),
        "psnr_clean": psnr(image, clean),
        "psnr_attacked": psnr(image, attacked[attack]),
        "contrast": float(image.std()),
    }


def first_outputs(
    spec: dict, photos: dict, names: list[str], steps: int, threads: int
) -> dict[str, dict]:
    """{id: {"25": DIP₁'s output after 25 steps, …}}, kept once made."""
    key = "-".join(map(str, spec["first"].values()))
    files = {name: KEPT / f"dip1/{key}/{spec['attack']}/{name}.safetensors" for name in names}
    found = {name: load_file(file) if file.exists() else {} for name, file in files.items()}
    missing = [name for name in names if str(steps) not in found[name]]
    readouts = tuple(n for n in FIRST_STEPS if n <= steps)
    tasks = [
        Task(photos[name][2][spec["attack"]], derive_seed(0, name, "dip1")) for name in missing
    ]
    architecture = dip1(**spec["first"])
    settings = FitSettings(readouts=readouts, learning_rate=1e-3, smoothing=0)
    for read in fit(architecture, tasks, settings, batch=threads):
        name = missing[read.positions[0]]
        found[name][str(read.iteration)] = read.output[0].clone()
        if read.iteration == steps:
            files[name].parent.mkdir(parents=True, exist_ok=True)
            save_file(found[name], files[name])
    return found


def rows(
    run: str, spec: dict, net: Torchvision, photos: dict, names: list[str], threads: int
) -> Iterator[dict]:
    """The rows of a run, image by image."""
    attack, tandem = spec["attack"], spec["network"] == "tandem"
    starts = first_outputs(spec, photos, names, spec["length"], threads) if tandem else {}
    tasks = [
        Task(
            photos[name][2][attack],
            derive_seed(0, name, "dip2" if tandem else "dip"),
            starts[name][str(spec["length"])] if tandem else None,
        )
        for name in names
    ]
    done = {name: Averages() for name in names}
    made: dict[str, list] = {name: [] for name in names}
    for name, outputs in starts.items():
        for steps, image in outputs.items():
            row = {"run": run, "image": name, "network": "dip1", "steps": int(steps)}
            row |= {"average": "none"} | measure(net, photos[name], attack, image)
            made[name].append(row)
    architecture = dip2(3 if tandem else Z_CHANNELS, **spec["second"])
    readouts = tuple(range(1, spec["steps"] + 1))
    settings = FitSettings(readouts=readouts, learning_rate=1e-3, smoothing=0)
    for read in fit(architecture, tasks, settings, batch=threads):
        name = names[read.positions[0]]
        done[name].update(read.output[0])
        if read.iteration in STEPS:
            for average, image in done[name].items():
                row = {"run": run, "image": name, "network": "dip2", "steps": read.iteration}
                row |= {"average": average} | measure(net, photos[name], attack, image)
                made[name].append(row)
            file = KEPT / f"restored/{run}/{name}-{read.iteration}.safetensors"
            if read.iteration in (100, 300, 1000):
                file.parent.mkdir(parents=True, exist_ok=True)
                save_file({k: v.half() for k, v in done[name].items()}, file)
        if read.iteration == spec["steps"]:
            yield from made.pop(name)


ATTACK_LOOKS = {
    "BIM": ("C0", "o"),
    "FGSM": ("C1", "s"),
    "MI-FGSM": ("C3", "D"),
    "clean": ("C2", "^"),
}


def draw(table: pd.DataFrame) -> None:
    """measured/tandem.png: how near to the clean image, and how many correct, against the steps.

    Of the paper's two networks with their defaults, on the images that they have in most rows.
    """
    from matplotlib.figure import Figure

    from tandem_defense.artifacts import style

    second = table[table["network"] == "dip2"]
    raw, smooth = (second[second["average"] == name] for name in ("none", "0.99"))
    images = raw.groupby("run")["image"].nunique()
    attacks = {name: name.partition(", ")[2] or "BIM" for name in RUNS}
    # Means over fewer images are of other images, and would not lie beside these.
    names = [n for n, a in attacks.items() if a in ATTACK_LOOKS and images.get(n) == images.max()]
    with style.style():
        drawing = Figure(figsize=(6.9, 3.6), layout="constrained")
        axes = drawing.subplots(1, 2)
        for name in names:
            near = raw[raw["run"] == name].groupby("steps")["psnr_clean"].mean()
            right = smooth[smooth["run"] == name].groupby("steps")["correct"].sum()
            color, marker = ATTACK_LOOKS[attacks[name]]
            look = {"color": color, "marker": marker, "markersize": 3}
            tandem = RUNS[name]["network"] == "tandem"
            look["linestyle"] = "-" if tandem else (0, (4, 2))
            title = f"{'t-DIPs' if tandem else 'DIP alone'}, {attacks[name]}"
            axes[0].plot(near.index, near, label=title, **look)
            axes[1].plot(right.index, right, **look)
        axes[0].set(xlabel="steps of DIP₂", ylabel="PSNR to the clean image, dB")
        axes[0].set_title("The outputs as they are")
        axes[1].set(xlabel="steps of DIP₂", ylabel="photographs classified correctly")
        axes[1].set_title("Moving average of 0.99")
        axes[1].set_ylim(0, images.max())
        drawing.legend(loc="outside upper center", ncol=3, frameon=False)
        note = (
            f"The same {images.max()} photographs, which BIM fools; attacks of L∞ 8/255 on the"
            " ResNet-50; t-DIPs after 100 steps of DIP₁"
        )
        bottom = style.footer(drawing, note)
        drawing.get_layout_engine().set(rect=(0, bottom, 1, 1 - bottom))
        style.save(drawing, OUTPUT.with_suffix(".png"))


def main() -> None:
    """Measure the runs and images that are not in the CSV yet, then draw all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1, help="so many images at a time")
    parser.add_argument("--runs", nargs="*", default=list(RUNS))
    options = parser.parse_args()
    device.prepare(threads=1, device="cpu")
    net = Torchvision(architecture="resnet50").eval()
    net.read_checkpoint(str(HERE / "inputs/resnet50.safetensors"))
    photos = photographs(net, options.images)
    table = pd.read_csv(OUTPUT) if OUTPUT.exists() else pd.DataFrame(columns=["run", "image"])
    for run in options.runs:
        count = min(options.images, FEWER.get(run, options.images))
        known = set(table.image[table.run == run])
        names = [name for name in list(photos)[:count] if name not in known]
        for row in rows(run, RUNS[run], net, photos, names, options.threads):
            table = pd.concat([table, pd.DataFrame([row])], ignore_index=True)
            if row["steps"] == RUNS[run]["steps"] and row["average"] == "0.99 corrected":
                table.round(4).to_csv(OUTPUT, index=False)
                print(run, row["image"], f"{row['psnr_clean']:.1f} dB", flush=True)
    draw(table)


if __name__ == "__main__":
    main()
