"""How fast DIP₂ is fitted: the engine, the reference, and the loop a user would write instead.

python performance/restoration.py [--sizes 64 224 299] [--output performance/restoration.csv]

Writes the CSV (a row per implementation, size, batch and precision) and, beside it, a plot with the
same name. The public loop has the settings of the deep-image-prior repository's U-Net in PyTorch's
own layers and torch.optim.Adam, one image at a time, on as many threads as PyTorch takes. All work
on the same images with the same initial weights and take turns, so that what else the machine does
touches them alike; the fastest turn counts. Runs on the GPU if there is one, else on the CPU.

max_relative_error is the largest ‖difference‖ / ‖image‖ after ten steps: of the engine from the
reference in float32, of the reference in float32 from itself in float64, which tells how much
rounding alone does. flops_share counts the direct method's operations: Winograd's method needs
fewer, so the share may exceed 1.

--seeds N instead compares accuracies: reference and engine, in float32 and bf16, without and with
early stopping, restore the demo's attacked tuning patches at the demo's full length, from N seeds.
"""

import argparse
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from tandem_defense.datasets.photos import Photos  # noqa: E402
from tandem_defense.restoration import engine, reference  # noqa: E402
from tandem_defense.restoration.reference import FitSettings, Task, dip2  # noqa: E402

STEPS = 10  # after which results are compared
SETTINGS = {"learning_rate": 1e-3, "smoothing": 0.99}


def public_loop(network: nn.Module, z: torch.Tensor, image: torch.Tensor, steps: int) -> None:
    """What a user would write: fit the network, keep the smoothed output."""
    optimizer = torch.optim.Adam(network.parameters(), lr=SETTINGS["learning_rate"])
    mse, smooth = nn.MSELoss(), None
    for _ in range(steps):
        optimizer.zero_grad()
        out = network(z)
        loss = mse(out, image)
        loss.backward()
        optimizer.step()
        weight = SETTINGS["smoothing"]
        smooth = out.detach() if smooth is None else smooth * weight + out.detach() * (1 - weight)


class PublicUNet(nn.Module):
    """deep-image-prior's U-Net: feature_scale 4, one more layer, deconvolutions, zero padding,
    nn.InstanceNorm2d, sigmoid; outputs cropped so that every size works.
    """

    def __init__(self, inputs: int, widths=(16, 32, 64, 128, 256, 256)):
        super().__init__()

        def pair(n, m, norm):
            layers = []
            for k in (n, m):
                layers += [nn.Conv2d(k, m, 3, padding=1), *([nn.InstanceNorm2d(m)] * norm)]
                layers += [nn.ReLU()]
            return nn.Sequential(*layers)

        steps = list(zip(widths, widths[1:], strict=False))
        self.start = pair(inputs, widths[0], True)
        self.pool = nn.MaxPool2d(2, 2)
        self.downs = nn.ModuleList(pair(n, m, True) for n, m in steps)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(m, n, 4, 2, 1) for n, m in steps[::-1])
        self.merges = nn.ModuleList(pair(2 * n, n, False) for n, _ in steps[::-1])
        self.final = nn.Sequential(nn.Conv2d(widths[0], 3, 1), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, inputs, H, W) to (1, 3, H, W)."""
        shortcuts = [self.start(x)]
        for down in self.downs:
            shortcuts.append(down(self.pool(shortcuts[-1])))
        x = shortcuts.pop()
        for up, merge in zip(self.ups, self.merges, strict=True):
            shortcut = shortcuts.pop()
            x = up(x, output_size=shortcut.shape[2:])
            x = merge(torch.cat([x, shortcut], 1))
        return self.final(x)


def flops(size: int) -> int:
    """Floating-point operations of a step by the direct method (2 per multiply-add)."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = reference.build(dip2(3, 4))
        network(torch.empty(1, 3, size, size)).mean().backward()
    return counter.get_total_flops()


def traffic(size: int) -> int:
    """Bytes that a step must move even if it computed for free.

    Parameters, gradients and Adam's two moments (10 accesses of 4 bytes a parameter: weights are
    read forward and backward, gradients written and read, weights and moments read and written),
    and every layer's output, written and read forward, and its gradient likewise.
    """
    network, outputs = reference.build(dip2(3, 4)).to("meta"), 0

    def count(module, inputs, output):
        nonlocal outputs
        outputs += output.numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.InstanceNorm2d):
            module.register_forward_hook(count)
    network(torch.empty(1, 3, size, size, device="meta"))
    parameters = sum(p.numel() for p in network.parameters())
    return 4 * (10 * parameters + 4 * outputs)


def timed(device: torch.device, work) -> float:
    """Seconds of a call, everything it started included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def limits(device: torch.device) -> tuple[float, float]:
    """FLOP/s of a large matrix product, bytes/s of a large copy."""
    n, m = (8192, 1 << 28) if device.type == "cuda" else (2048, 1 << 25)
    a, b = torch.randn(n, n, device=device), torch.randn(n, n, device=device)
    x = torch.randn(m, device=device)
    y = torch.empty_like(x)
    product = min(timed(device, lambda: torch.mm(a, b)) for _ in range(5))
    copy = min(timed(device, lambda: y.copy_(x)) for _ in range(5))
    return 2 * n**3 / product, 2 * 4 * m / copy


class Peak:
    """Memory that a block needs at most beyond what was in use, in bytes."""

    def __init__(self, device: torch.device):
        self.device, self.bytes = device, 0

    def __enter__(self):
        self.ended = threading.Event()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.before = self._now()
        self.watch = threading.Thread(target=self._follow, daemon=True)
        self.watch.start()
        return self

    def _now(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_reserved()
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def _follow(self):
        while not self.ended.wait(0.02):
            self.bytes = max(self.bytes, self._now() - self.before)

    def __exit__(self, *_):
        self.ended.set()
        self.watch.join()
        self.bytes = max(self.bytes, self._now() - self.before)


def images(size: int, n: int) -> torch.Tensor:
    """Square photographs (n, 3, size, size) in [0, 1] from those that ship with scikit-image."""
    from skimage import data

    names = ("astronaut", "coffee", "chelsea", "rocket")
    whole = [torch.from_numpy(getattr(data, name)()).permute(2, 0, 1) / 255 for name in names]
    cut = [x[:, : min(x.shape[1:]), : min(x.shape[1:])][None].float() for x in whole]
    cut = [nn.functional.interpolate(x, (size, size), mode="area")[0] for x in cut]
    return torch.stack([cut[i % len(cut)].roll(7 * (i // len(cut)), 2) for i in range(n)])


def tasks(size: int, n: int, device: torch.device) -> list[Task]:
    """DIP₂'s work: fit an image, starting from another (here a blurred one, as DIP₁ leaves it)."""
    found = []
    for i, image in enumerate(images(size, n)):
        blurred = nn.functional.avg_pool2d(image[None], 9, 1, 4)[0]
        found.append(Task(image.to(device), i, blurred.to(device)))
    return found


def fitted(
    fit, work: list[Task], steps: int, precision: str = "float32", **options
) -> torch.Tensor:
    """Images (n, 3, H, W) after some steps."""
    result = torch.empty(len(work), *work[0].target.shape)
    settings = FitSettings(readouts=(steps,), precision=precision, **SETTINGS)
    for read in fit(dip2(3, 4), work, settings, **options):
        result[list(read.positions)] = read.output.float().cpu()
    return result


def measure(size: int, batches: list[int], precisions: list[str], turns: int, budget: float):
    """Rows of one size."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else processor()
    top_flops, top_bytes = limits(device)
    work = tasks(size, max(batches), device)
    expected = fitted(reference.fit, work[:4], STEPS)

    def public(steps: int) -> None:
        network = PublicUNet(3).to(device)
        public_loop(network, work[0].input[None], work[0].target[None], steps)

    def plain(steps: int) -> None:
        fitted(reference.fit, work[:1], steps)

    candidates = {("public_loop", 1, "float32"): public, ("reference", 1, "float32"): plain}
    for precision in precisions:
        for batch in batches:

            def ours(steps: int, batch=batch, precision=precision) -> None:
                fitted(engine.fit, work[:batch], steps, precision, batch=batch)

            candidates["engine", batch, precision] = ours

    # The time of `steps` steps less that of one: setting up is not counted, in any of them.
    seconds, peaks, steps = {}, {}, {}
    for key, run in candidates.items():
        with Peak(device) as peak:
            run(1)
        peaks[key] = peak.bytes
        once = timed(device, lambda run=run: run(2)) - timed(device, lambda run=run: run(1))
        steps[key] = int(np.clip(budget / len(candidates) / turns / max(once, 1e-4), 3, 200))
    for turn in range(turns):
        for key, run in candidates.items():
            n = steps[key]
            spent = timed(device, lambda: run(n + 1)) - timed(device, lambda: run(1))  # noqa: B023
            seconds[key] = min(seconds.get(key, np.inf), spent / n / key[1])
        print(f"size {size}: turn {turn + 1} of {turns}", file=sys.stderr, flush=True)
    rows = []
    for (implementation, batch, precision), each in seconds.items():
        error = np.nan
        if implementation == "engine" and batch <= len(expected):
            found = fitted(engine.fit, work[:batch], STEPS, precision, batch=batch)
            error = relative(found, expected[:batch])
        if implementation == "reference":
            exact = fitted(reference.fit, work[: len(expected)], STEPS, "float64")
            error = relative(expected, exact)
        rows.append(
            {
                "device": name,
                "implementation": implementation,
                "size": size,
                "batch": batch,
                "precision": precision,
                "image_steps_per_second": 1 / each,
                "ratio_to_public_loop": seconds["public_loop", 1, "float32"] / each,
                "peak_memory_bytes": peaks[implementation, batch, precision],
                "flops_share": flops(size) / each / top_flops,
                "bandwidth_share": traffic(size) / each / top_bytes,
                "max_relative_error": error,
            }
        )
    best = [r for r in rows if r["implementation"] == "engine"]
    for row in best:  # larger batches were not compared again: their images are the same
        same = [r for r in best if r["precision"] == row["precision"]]
        if np.isnan(row["max_relative_error"]):
            row["max_relative_error"] = np.nanmax([r["max_relative_error"] for r in same])
    roof = max(flops(size) / top_flops, traffic(size) / top_bytes)
    return rows, 1 / roof


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest ‖found − expected‖ / ‖expected‖ of the images."""
    return float(
        ((found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)).max()
    )


def rms(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest root mean squared difference of an image, in [0, 1] pixels."""
    return float((found - expected).square().mean((1, 2, 3)).sqrt().max())


def processor() -> str:
    """The CPU's name and the threads used."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'CPU'}, {torch.get_num_threads()} threads"


def plot(table: pd.DataFrame, roofs: dict[int, float], path: Path) -> None:
    """Throughput against batch size, a panel per image size; the roofline as a line."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    sizes = list(roofs)
    figure, axes = plt.subplots(1, len(sizes), figsize=(4.2 * len(sizes), 3.6), squeeze=False)
    for axis, size in zip(axes[0], sizes, strict=True):
        some = table[table["size"] == size]
        ours = some[some.implementation == "engine"]
        for precision, group in ours.groupby("precision"):
            axis.plot(group.batch, group.image_steps_per_second, "o-", label=f"engine, {precision}")
        for name, style, color in (("public_loop", "--", "0.2"), ("reference", ":", "0.5")):
            value = some[some.implementation == name].image_steps_per_second.iloc[0]
            axis.axhline(value, linestyle=style, color=color, label=name.replace("_", " "))
        axis.axhline(
            roofs[size], color="tab:red", linewidth=1, label="roofline, direct convolution"
        )
        axis.set(title=f"{size} × {size}", xlabel="images at a time", xscale="log", ylim=(0, None))
        batches = sorted(ours.batch.unique())
        axis.set_xticks(batches, [str(b) for b in batches])
        axis.minorticks_off()
    axes[0][0].set_ylabel("image-steps per second")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False)
    figure.suptitle(table.device.iloc[0], fontsize=10)
    figure.tight_layout(rect=(0, 0.06 + 0.06 * (len(labels) > 4), 1, 1))
    figure.savefig(path, dpi=150)


def accuracies(seeds: int) -> pd.DataFrame:
    """Accuracy after t-DIPs at the demo's full length: a row per variant and seed."""
    from tandem_defense.attacks.iterative import BIM
    from tandem_defense.classifiers.small import SmallCNN
    from tandem_defense.defenses.dip import TandemDIP
    from tandem_defense.pipeline.entries import to_tensor
    from tandem_defense.seeds import derive_seed

    splits = Photos(size=64, regions=4, test=21, train=1600).load()
    net, train, tune = SmallCNN(classes=7, width=16), splits["train"], splits["tune"]
    settings = {"epochs": 10, "noise": 0.1, "blur": 0.3}
    net.fit(to_tensor(train.images), torch.from_numpy(train.labels), seed=0, **settings)
    x, y = to_tensor(tune.images), torch.from_numpy(tune.labels)
    attack = BIM(semantics="corner", epsilon=8 / 255)
    attacked = attack(net, x, y, seeds=[derive_seed(0, name) for name in tune.ids]).images
    variants = {
        "reference": {"engine": "reference"},
        "engine": {},
        "engine, bf16": {"precision": "bf16"},
        "engine, early stopping 10, 20": {"stop_window": 10, "stop_patience": 20},
        "engine, early stopping 20, 60": {"stop_window": 20, "stop_patience": 60},
    }
    rows = []
    for seed in range(seeds):
        restored = {}
        for name, settings in variants.items():
            defense = TandemDIP(
                first_iterations=(20,),
                iterations=100,
                feature_scale=16,
                first_width=0.25,
                smoothing=0.9,
                seed=seed,
                **settings,
            )
            restored[name] = defense(attacked, tune.ids)
            rows.append(
                {
                    "variant": name,
                    "seed": seed,
                    "right": int((net.predict(restored[name]) == y).sum()),
                    "images": len(y),
                    "max_rms_difference": rms(restored[name], restored["reference"]),
                }
            )
            print(rows[-1], file=sys.stderr, flush=True)
    return pd.DataFrame(rows)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 224, 299])
    parser.add_argument("--batches", type=int, nargs="+", help="images at a time")
    parser.add_argument("--precisions", nargs="+", help="of the engine")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=100, help="about, per size")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=ROOT / "performance/restoration.csv")
    parser.add_argument("--seeds", type=int, help="compare accuracies over so many seeds")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    if options.seeds:
        table = accuracies(options.seeds)
        table.to_csv(options.output, index=False)
        print(table.to_string(index=False))
        return
    gpu = torch.cuda.is_available()
    batches = options.batches or ([1, 4, 16, 64] if gpu else [1, 2, 4])
    precisions = options.precisions or (["float32", "tf32", "bf16"] if gpu else ["float32"])
    rows, roofs = [], {}
    for size in options.sizes:
        some, roofs[size] = measure(size, batches, precisions, options.turns, options.seconds)
        rows += some
    table = pd.DataFrame(rows)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.output, index=False, float_format="%.4g")
    plot(table, roofs, options.output.with_suffix(".png"))
    print(table.drop(columns="device").to_string(index=False, float_format="%.3g"))


if __name__ == "__main__":
    main()
