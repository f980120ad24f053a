"""What schedules beyond the paper cost in accuracy, and save in time, on the same photographs.

python reproduction/schedules.py [--images 12] [--threads 1] [--runs NAME ...]

The photographs of tandem.py, clean and under BIM, restored by t-DIPs as the paper has it, coarse to
fine, with either rule of early stopping, by DIP alone and by DIPDefend. Writes
measured/schedules.csv, a row per run, photograph, attack and read-out. `core_seconds` is processor
time from the start of the restoration to the read-out, which other work on the machine changes less
than the clock; `load` is the machine's average over the last minute, so that `threads` means alone.
What is there already is not computed again: stop the script and start it again at any time.
"""

import argparse
import os
import time
from collections.abc import Iterator

import pandas as pd
import torch
from tandem import HERE, Torchvision, measure, photographs  # which puts the package on the path

from tandem_defense import device
from tandem_defense.defenses.dip import DIP, TandemDIP
from tandem_defense.defenses.dipdefend import DIPDefend

OUTPUT = HERE / "measured/schedules.csv"
KEYS = ["run", "attack", "image"]
STEPS = (250, 500, 750, 1000)
TANDEM = {"iterations": 1000, "feature_scale": 8, "first_iterations": (100,)}
RUNS = {
    "t-DIPs": (TandemDIP(**TANDEM), STEPS),
    "t-DIPs, coarse 500": (TandemDIP(**TANDEM, coarse=500), STEPS),
    "t-DIPs, stop_window 100": (TandemDIP(**TANDEM, stop_window=100), (1000,)),
    "t-DIPs, stop_held_out 0.02": (TandemDIP(**TANDEM, stop_held_out=0.02), (1000,)),
    "DIPDefend": (DIPDefend(), (400,)),
    "DIP": (DIP(iterations=1000, feature_scale=8), STEPS),
}


def rows(run: str, attack: str, name: str, net: Torchvision, photograph) -> Iterator[dict]:
    """The rows of one restoration."""
    defense, readouts = RUNS[run]
    image, started = photograph[2][attack][None], time.process_time()
    for read in defense.trace(image, [name], readouts):
        spent = time.process_time() - started
        row = {"run": run, "attack": attack, "image": name, "steps": read.iteration}
        row |= {"stopped": int(read.stopped[0]), "core_seconds": spent}
        row |= {"load": os.getloadavg()[0], "threads": torch.get_num_threads()}
        yield row | measure(net, photograph, attack, read.images[0])
        started += time.process_time() - started - spent  # the classifier's time is not ours


def main() -> None:
    """Measure what is not in the CSV yet, photograph by photograph."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", nargs="*", default=list(RUNS))
    options = parser.parse_args()
    device.prepare(threads=options.threads, device="cpu")
    net = Torchvision(architecture="resnet50").eval()
    net.read_checkpoint(str(HERE / "inputs/resnet50.safetensors"))
    table = pd.read_csv(OUTPUT) if OUTPUT.exists() else pd.DataFrame(columns=KEYS)
    known = set(table[KEYS].itertuples(index=False, name=None))
    for name, photograph in photographs(net, options.images).items():
        for attack in ("BIM", "clean"):
            for run in options.runs:
                if (run, attack, name) in known:
                    continue
                made = pd.DataFrame(rows(run, attack, name, net, photograph))
                table = pd.concat([table, made], ignore_index=True)
                table.round(4).to_csv(OUTPUT, index=False)
                last = made.iloc[-1]
                print(name, attack, run, f"{last.core_seconds:.0f} s", last.correct, flush=True)


if __name__ == "__main__":
    main()
