"""How fast a network is fitted: the engine, the reference, and what a user would take instead.

python performance/restoration.py [--sizes 64 299] [--seconds 60] [--again]
python performance/restoration.py --page      the tables in docs/restoration.md, from the CSV

Writes performance/restoration.csv, a row per device, network, size, implementation, number of
images at a time and precision, and a plot beside it. What the CSV has of this device and this
PyTorch already is not measured again, without --again. Runs on the GPU if there is one, else on the
CPU, where it takes a quarter of an hour.

All fit the same networks, with the same initial weights, to the same photographs, and take turns,
so that what else the machine does touches them alike; the fastest turn counts. Networks are DIP₁
(`dip1`), DIP₂ (`dip2`) at two feature scales, and `tandem`, whole restorations with a tenth of the
paper's steps, 10 of DIP₁ and 100 of DIP₂, with everything that belongs to them. Rates of `dip1` and
`dip2` are of steps alone, after some that are not counted.

Columns: `roof`, the share of what the device allows: operations of the direct method (Winograd's
needs fewer, so the share may exceed 1) at the speed of a large matrix product in that precision, or
the bytes that have to be moved at the speed of a large copy, whichever takes longer;
`memory_bytes`, the most that was in use, less what was before; `error`, the largest ‖difference‖ /
‖image‖ after ten steps: of the engine from the reference in float32, of the reference from itself
in float64, which tells how much rounding alone does.

deepinv is measured where it is installed: pip install --group benchmark
"""

import argparse
import gc
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import numpy as np  # noqa: E402
import pages  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from peers import SETTINGS, fitted, peers  # noqa: E402
from torch import nn  # noqa: E402

from tandem_defense.device import tf32  # noqa: E402
from tandem_defense.restoration import reference  # noqa: E402
from tandem_defense.restoration.reference import Architecture, Task, dip1, dip2  # noqa: E402

__all__ = ["ROOT", "SETTINGS", "processor", "tasks", "timed"]  # of threads.py

NETWORKS = {
    ("dip2", 8): dip2(3, 8),
    ("dip2", 4): dip2(3, 4),
    ("dip1", 0): dip1(),
    ("tandem", 8): None,
}
SHORT = (10, 100)  # steps of a tandem
STEPS = 10  # after which results are compared
KEYS = ["device", "torch", "network", "feature_scale", "size"]
COLUMNS = [*KEYS, "implementation", "images", "precision", "image_steps_per_second"]
COLUMNS += ["ratio_to_loop", "roof", "memory_bytes", "error"]
OUTPUT = ROOT / "performance/restoration.csv"
PAGE = ROOT / "docs/restoration.md"


def flops(architecture: Architecture, size: int) -> int:
    """Floating-point operations of a step by the direct method (2 per multiply-add)."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        image = torch.empty(1, architecture.inputs, size, size)
        reference.build(architecture)(image).mean().backward()
    return counter.get_total_flops()


def traffic(architecture: Architecture, size: int, precision: str) -> int:
    """Bytes that a step must move even if it computed for free.

    Parameters, gradients and Adam's two moments (10 accesses of 4 bytes a parameter: weights are
    read forward and backward, gradients written and read, weights and moments read and written),
    and every layer's output, written and read forward, and its gradient likewise.
    """
    network, outputs = reference.build(architecture).to("meta"), 0

    def count(module, inputs, output):
        nonlocal outputs
        outputs += output.numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.InstanceNorm2d):
            module.register_forward_hook(count)
    network(torch.empty(1, architecture.inputs, size, size, device="meta"))
    parameters = sum(p.numel() for p in network.parameters())
    return 4 * 10 * parameters + (2 if precision == "bf16" else 4) * 4 * outputs


def timed(device: torch.device, work: Callable) -> float:
    """Seconds of a call, everything it started included."""
    start = now(device)
    work()
    return now(device) - start


def now(device: torch.device) -> float:
    """Seconds on some clock, once the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def limits(device: torch.device, precision: str) -> tuple[float, float]:
    """FLOP/s of a large matrix product in this precision, bytes/s of a large copy."""
    n, m = (8192, 1 << 28) if device.type == "cuda" else (2048, 1 << 25)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    x = torch.randn(m, device=device)
    y = torch.empty_like(x)
    with tf32(precision == "tf32"):
        product = min(timed(device, lambda: torch.mm(a, b)) for _ in range(5))
    copy = min(timed(device, lambda: y.copy_(x)) for _ in range(5))
    return 2 * n**3 / product, 2 * 4 * m / copy


class Peak:
    """Memory that a block needs at most beyond what was in use, in bytes."""

    def __init__(self, device: torch.device):
        self.device, self.bytes = device, 0

    def __enter__(self):
        self.ended = threading.Event()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
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
    work = []
    for i, image in enumerate(images(size, n)):
        blurred = nn.functional.avg_pool2d(image[None], 9, 1, 4)[0]
        work.append(Task(image.to(device), i, blurred.to(device)))
    return work


def seconds(device: torch.device, peer: Callable, architecture, work, steps) -> float:
    """Seconds per image and step, from the first of two numbers of steps to the second."""
    looks = []
    peer(architecture, work, steps, lambda: looks.append(now(device)))
    return (looks[1] - looks[0]) / (steps[1] - steps[0]) / len(work)


def tandem_seconds(device: torch.device, peer: Callable, scale: int, work) -> float:
    """Seconds per image and step of whole restorations."""

    def both():
        starts = [Task(task.target, task.seed) for task in work]
        outputs = peer(dip1(), starts, (1, SHORT[0]), lambda: None).to(device)
        seconds = [
            Task(task.target, task.seed, output.reshape(task.target.shape))
            for task, output in zip(work, outputs, strict=True)
        ]
        peer(dip2(3, scale), seconds, (1, SHORT[1]), lambda: None)

    return timed(device, both) / sum(SHORT) / len(work)


def implementations(device: torch.device, network: str, names: list[str]) -> dict[tuple, Callable]:
    """{(implementation, images at a time, precision): peer}, our engines' and those of `names`."""
    gpu = device.type == "cuda"
    several = 16 if gpu else torch.get_num_threads()
    chosen = {}
    for name, peer in peers().items():
        if name not in names or (network == "tandem" and name in ("deepinv", "vmap")):
            continue
        for precision in ("float32", "tf32") if gpu and name != "vmap" else ("float32",):
            images = several if name == "vmap" else 1
            if name == "reference":
                peer = partial(peer, precision=precision)
            chosen[name, images, precision] = peer
    for engine in ("fast", "triton") if gpu else ("fast",):
        for precision in ("float32", "tf32", "bf16") if gpu else ("float32",):
            if (engine, precision) == ("triton", "bf16"):
                continue
            for images in sorted({1, several, *((64,) if gpu else ())}):
                label = "engine" if engine == "fast" else "triton"
                chosen[label, images, precision] = partial(
                    fitted, engine=engine, precision=precision, batch=images
                )
    return chosen


def measure(
    network: str, scale: int, size: int, names: list[str], turns: int, budget: float
) -> list[dict]:
    """Rows of one network and size; `budget` is in seconds, for all implementations together."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    architecture = NETWORKS[network, scale]
    chosen = implementations(device, network, names)
    work = tasks(size, max(images for _, images, _ in chosen), device)
    if network == "dip1":
        work = [Task(task.target, task.seed) for task in work]
    fastest, peaks, errors = {}, {}, {}
    for turn in range(turns):
        for key, peer in chosen.items():
            _, images, precision = key
            with tf32(precision == "tf32"):  # of the peers; the engine sees to it by itself
                if network == "tandem":
                    run = partial(tandem_seconds, device, peer, scale, work[:images])
                else:
                    # The first turn warms up and says how many steps the others can afford.
                    each = budget / len(chosen) / turns
                    once = fastest.get(key, 0) * images
                    last = 8 if turn == 0 else 3 + int(np.clip(each / once, 5, 300))
                    run = partial(seconds, device, peer, architecture, work[:images], (3, last))
                with Peak(device) as peak:
                    spent = run()
            peaks[key] = max(peaks.get(key, 0), peak.bytes)
            fastest[key] = min(fastest.get(key, np.inf), spent)
        print(f"{network} {scale} {size}: turn {turn + 1} of {turns}", file=sys.stderr, flush=True)
    if network != "tandem":
        errors = compare(architecture, work, chosen)
    loop = {p: fastest.get(("public_loop", 1, p)) for p in ("float32", "tf32")}
    rows = []
    for key, each in fastest.items():
        name, images, precision = key
        row = {"device": processor(device), "torch": torch.__version__, "network": network}
        row |= {"feature_scale": scale or None, "size": size, "implementation": name}
        row |= {"images": images, "precision": precision, "image_steps_per_second": 1 / each}
        # Without --peers public_loop there is nothing to compare with.
        row["ratio_to_loop"] = (loop.get(precision, loop["tf32"]) or np.nan) / each
        if network != "tandem":
            top_flops, top_bytes = limits(device, precision)
            least = flops(architecture, size) / top_flops
            row["roof"] = max(least, traffic(architecture, size, precision) / top_bytes) / each
        row |= {"memory_bytes": peaks[key], "error": errors.get(key)}
        rows.append(row)
    return rows


def compare(architecture: Architecture, work: list[Task], chosen: dict) -> dict[tuple, float]:
    """{implementation: its error} after a few steps, of the reference and our engines."""
    run = partial(fitted, architecture, steps=(1, STEPS), look=lambda: None)
    work = work[:2]
    expected = run(work, fit=reference.fit)
    errors = {}
    for key, peer in chosen.items():
        name, images, precision = key
        if name == "reference" and precision == "float32":
            errors[key] = relative(expected, run(work, fit=reference.fit, precision="float64"))
        elif name in ("engine", "triton"):
            result = peer(architecture, work[:images], (1, STEPS), lambda: None)
            errors[key] = relative(result, expected[:images])
    return errors


def relative(result: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest ‖result − expected‖ / ‖expected‖ of the images."""
    difference = (result - expected).flatten(1).norm(dim=1)
    return float((difference / expected.flatten(1).norm(dim=1)).max())


def processor(device: torch.device | None = None) -> str:
    """The GPU's name, or the CPU's and the threads used."""
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    name = f"{names[0] if names else 'CPU'}, {torch.get_num_threads()} threads"
    return name + (", AVX-512" if " avx512f" in flags else "")


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """A row per device, network, scale, size and precision for a reader.

    Image-steps per second of each implementation, of our engines the best and how many images
    that takes at a time; `ratio` to the faster of the public loop and its compiled form.
    """
    rows = []
    table = table.assign(feature_scale=table["feature_scale"].fillna(0).astype(int))
    for keys, some in table.groupby(["device", "network", "feature_scale", "size", "precision"]):
        row = dict(zip(["device", "network", "scale", "size", "precision"], keys, strict=True))
        rates = some.set_index(["implementation", "images"])["image_steps_per_second"]
        for (name, images), rate in rates.items():
            row[f"{name}, {images}" if name in ("engine", "triton") else name] = rate
        loops = [row[name] for name in ("public_loop", "compiled_loop") if name in row]
        ours = some[some["implementation"].isin(["engine", "triton"])]
        if loops and len(ours):
            best = ours.loc[ours["image_steps_per_second"].idxmax()]
            row |= {"ratio": best["image_steps_per_second"] / max(loops), "roof": best["roof"]}
            row |= {"error": ours["error"].max()}
            exact = some.loc[some["implementation"] == "reference", "error"]
            row["rounding"] = exact.iloc[0] if len(exact) else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def page(table: pd.DataFrame) -> str:
    """The tables of docs/restoration.md, one per device."""
    from tabulate import tabulate

    names = {"dip1": "DIP₁", "dip2": "DIP₂", "tandem": "t-DIPs, 10 + 100 steps"}
    parts = []
    for device, some in wide(table).groupby("device", sort=False):
        rates = [c for c in some if c.startswith(("engine", "triton"))]
        rates = [
            c for c in ("public_loop", "compiled_loop", "deepinv", "vmap") if c in some
        ] + rates
        head = ["network", "scale", "size", "precision", *(c.replace("_", " ") for c in rates)]
        head += ["ratio", "share of the roof", "error (of rounding)"]
        rows = []
        for _, row in some.iterrows():
            cells = [names[row["network"]], row["scale"] or "", row["size"], row["precision"]]
            cells += ["" if pd.isna(row[c]) else f"{row[c]:.3g}" for c in rates]
            cells += ["" if pd.isna(row[c]) else f"{row[c]:.2f}" for c in ("ratio", "roof")]
            known = not pd.isna(row["error"])
            rounding = "" if pd.isna(row["rounding"]) else f" ({row['rounding']:.0e})"
            cells.append(f"{row['error']:.0e}{rounding}" if known else "")
            rows.append(cells)
        body = tabulate(rows, head, tablefmt="pipe", disable_numparse=True)
        parts.append(f"Image-steps per second, {device}:\n\n{body}\n")
    return "\n".join(parts)


def plot(table: pd.DataFrame, path: Path) -> None:
    """The speed of all implementations, as multiples of the public loop's."""
    from matplotlib.figure import Figure

    from tandem_defense.artifacts import style

    table = table[table["device"] == table["device"].iloc[-1]]
    table = table[table["precision"] == "float32"]
    cases = list(table.groupby(["network", "feature_scale", "size"], dropna=False, sort=False))
    names = {"dip1": "DIP₁", "dip2": "DIP₂", "tandem": "t-DIPs"}
    order = list(dict.fromkeys(zip(table["implementation"], table["images"], strict=True)))
    with style.style():
        drawing = Figure(figsize=(6.9, 0.45 * len(cases) + 1.4), layout="constrained")
        axes = drawing.subplots()
        for i, key in enumerate(order):
            points = [
                (ratio, y)
                for y, (_, some) in enumerate(cases)
                for ratio in some[(some["implementation"] == key[0]) & (some["images"] == key[1])][
                    "ratio_to_loop"
                ]
            ]
            label = key[0].replace("_", " ") + (f", {key[1]} images" if key[1] > 1 else "")
            x, y = zip(*points, strict=True)
            axes.scatter(x, y, marker="osD^vPX"[i % 7], color=f"C{i % 10}", label=label, zorder=2)
        labels = [
            f"{names[network]}{'' if pd.isna(scale) else f', scale {scale:.0f}'}, {size} px"
            for (network, scale, size), _ in cases
        ]
        axes.set_yticks(range(len(cases)), labels)
        axes.invert_yaxis()
        axes.set(
            xlabel="image-steps per second, as a multiple of the public loop's", xlim=(0, None)
        )
        axes.set_title(table["device"].iloc[0], fontsize=8)
        drawing.legend(loc="outside lower center", ncol=4, frameon=False, fontsize=7)
        drawing.savefig(path, dpi=150)


def main() -> None:
    """Measure what is missing, write it at once; or the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 299])
    parser.add_argument("--networks", nargs="+", choices=["dip1", "dip2", "tandem"])
    parser.add_argument("--scales", type=int, nargs="+", choices=[8, 4], default=[8, 4])
    parser.add_argument("--peers", nargs="*", choices=list(peers()), default=list(peers()))
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60, help="about, per network and size")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--again", action="store_true", help="also what is there already")
    parser.add_argument("--page", action="store_true", help="only write table and picture")
    options = parser.parse_args()
    table = pd.read_csv(options.output) if options.output.exists() else pd.DataFrame()
    if options.page:
        pages.quote(PAGE, OUTPUT, f"\n{page(table)}\n")
        plot(table, options.output.with_suffix(".png"))
        return
    if not find_spec("deepinv"):
        print("deepinv is left out: pip install --group benchmark", file=sys.stderr)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wanted = [
        (network, scale)
        for network, scale in NETWORKS
        if network in (options.networks or [network]) and scale in (0, *options.scales)
    ]
    for size in options.sizes:
        for network, scale in wanted:
            here = (processor(device), torch.__version__, network, scale, size)
            known = set()
            if len(table):
                keys = table[KEYS].fillna({"feature_scale": 0})
                known = set(keys.itertuples(index=False, name=None))
            if here in known and not options.again:
                continue
            if here in known:
                table = table[[k != here for k in keys.itertuples(index=False, name=None)]]
            rows = measure(network, scale, size, options.peers, options.turns, options.seconds)
            table = pd.concat([table, pd.DataFrame(rows, columns=COLUMNS)], ignore_index=True)
            whole = table.astype({"feature_scale": "Int64"})
            whole.to_csv(options.output, index=False, float_format="%.4g")
            print(pd.DataFrame(rows).drop(columns=["device", "torch"]).to_string(index=False))
    plot(table, options.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
