"""How fast one image is fitted on several threads, and whether the result is the same.

python performance/threads.py [--threads 2] [--turns 20] [--output performance/threads.csv]

A row per network, number of images and number of threads: one image on one thread; one image on
all; and, as what the machine can do at most, as many images as threads, one thread each. `ratio`
compares image-steps per second with one image on one thread. `identical` says whether the first
image, after the same number of steps, equals that of one thread to the last bit. All take turns,
so that what else the machine does touches them alike; the fastest turn counts.
"""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import torch
from restoration import ROOT, SETTINGS, processor, tasks, timed

from tandem_defense.restoration import reference
from tandem_defense.restoration.native import Network
from tandem_defense.restoration.reference import Architecture, dip1, dip2

SIZE, FEATURE_SCALE = 299, 8
NETWORKS = {"dip1": dip1(), "dip2": dip2(3, FEATURE_SCALE)}
SECONDS = 0.5  # about, of a turn


def started(architecture: Architecture, images: int) -> list[Network]:
    """A network for each image, before its first step."""
    networks = []
    for task in tasks(SIZE, images, torch.device("cpu")):
        if architecture.kind == "dip1":
            task = reference.Task(task.target, task.seed)
        network = Network(architecture, SIZE, SIZE, torch.float32)
        network.start(*reference.draw(architecture, task), task.target)
        networks.append(network)
    return networks


def measure(name: str, threads: int, turns: int) -> list[dict]:
    """Rows of one network."""
    cases = [(1, 1), (1, threads), (threads, threads)]  # images, threads
    networks = {case: started(NETWORKS[name], case[0]) for case in cases}
    pool = ThreadPoolExecutor(threads)

    def run(case: tuple[int, int], steps: int) -> None:
        each = [case[1] // case[0]] * case[0]
        list(pool.map(lambda n, k: n.fit(steps, **SETTINGS, threads=k), networks[case], each))

    cpu, seconds = torch.device("cpu"), {}
    for case in cases:  # memory is new to the first steps
        run(case, 2)
    steps = max(1, round(SECONDS / timed(cpu, lambda: run(cases[0], 1))))
    for case in cases[1:]:
        run(case, 1)
    for turn in range(turns):
        for case in cases:
            spent = timed(cpu, lambda: run(case, steps)) / steps / case[0]  # noqa: B023
            seconds[case] = min(seconds.get(case, spent), spent)
        print(f"{name}: turn {turn + 1} of {turns}", file=sys.stderr, flush=True)
    alone = networks[cases[0]][0]
    return [
        {
            "device": processor(),
            "network": name,
            "size": SIZE,
            "feature_scale": FEATURE_SCALE if name == "dip2" else None,
            "images": case[0],
            "threads": case[1],
            "image_steps_per_second": 1 / seconds[case],
            "ratio": seconds[cases[0]] / seconds[case],
            "identical": torch.equal(networks[case][0].output, alone.output)
            and torch.equal(networks[case][0].average, alone.average),
        }
        for case in cases
    ]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--output", type=Path, default=ROOT / "performance/threads.csv")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [row for name in NETWORKS for row in measure(name, options.threads, options.turns)]
    table = pd.DataFrame(rows).astype({"feature_scale": "Int64"})
    table.to_csv(options.output, index=False, float_format="%.4g")
    print(table.drop(columns="device").to_string(index=False, float_format="%.3g"))


if __name__ == "__main__":
    main()
