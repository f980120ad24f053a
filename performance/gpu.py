"""What the GPU at hand does: tests, checks of its engines, their speed, and a slice of Table 1.

make gpu [MINUTES=9] [AGAIN="gradients nan"]
python performance/gpu.py [--minutes 9] [--again PART ...] [--list]

Parts follow one another, each in a process of its own and for ten minutes at most. What is done on
this card with this PyTorch is in performance/gpu.csv and is not done again, whatever came out,
unless `--again` names it; `--minutes` ends the run in time, and the next one goes on. The last
part, Table 1's slice, goes on inside itself. Ends with 0 when all is done and true, with 1 when
something was not true or could not be done, with 75 when there is more to do.

performance/gpu.csv: device, torch, part, and per row `engine` (``fast``: lanes.py; ``triton``),
`network` (``dip2/8``: DIP₂ at feature scale 8), `precision`, `lanes`, the measured `quantity`, its
`value`, the `limit` that it may not exceed, and `passed` where there is one. The benchmark writes
performance/restoration.csv, Table 1's slice performance/gpu_table1.csv.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import torch
import yaml

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "performance/gpu.csv"
TABLE1 = ROOT / "performance/gpu_table1.csv"
INPUTS = ROOT / "reproduction/inputs"
FOLDER = ROOT / "reproduction/results/gpu"  # where Table 1's slice runs
KEYS = ["device", "torch", "part"]
CASE = ["engine", "network", "precision", "lanes", "quantity"]
COLUMNS = [*KEYS, *CASE, "value", "limit", "passed"]
MOST = 600  # seconds of a part
LEAST = 5  # seconds in which to begin a part
MORE = 75  # exit status: there is more to do; EX_TEMPFAIL of sysexits.h
IMAGES = 48  # of Table 1's slice

TESTS = ("test_triton", "test_lanes", "test_engine", "test_stopping")
CHECKS = (
    "gradients",
    "replay",
    "alone",
    "nan",
    "resume",
    "memory",
    "repeat",
    "second_gpu",
    "losses",
)
MEASURED = ("start_up", "ceilings", "profile")
SPEEDS = ("dip2/8", "dip2/4", "dip1")
BENCHMARK = {"dip2/8": 8, "dip2/4": 4, "dip1": 8, "tandem/8": 8}  # network: feature scale
SIZES = (64, 299)


@dataclass(frozen=True)
class Part:
    """Something that is done in a process of its own.

    work : its rows, without device, torch and part
    needs : files without which it is left out
    resumes : whether, when its time is over, the next run goes on
    """

    work: Callable[[], list[dict]]
    needs: Sequence[Path] = ()
    resumes: bool = False


def quantity(name: str, value: float, limit: float | None = None, **more) -> dict:
    """A row that is of no engine in particular."""
    return {"quantity": name, "value": value, "limit": limit} | more


def tests(name: str) -> list[dict]:
    """A test file: how many tests there are, and how many did not pass."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", f"tests/restoration/{name}.py"]
        subprocess.run([*command, f"--junit-xml={report}"], cwd=ROOT)
        suite = ElementTree.parse(report).getroot().find("testsuite")
    count, skipped = int(suite.get("tests")), int(suite.get("skipped"))
    wrong = int(suite.get("failures")) + int(suite.get("errors"))
    return [
        quantity("tests", count),
        quantity("tests that were skipped", skipped),
        quantity("tests that did not pass", wrong if count > skipped else count, 0),
    ]


def check(name: str, network: str | None = None) -> list[dict]:
    """One of checks.py, on all networks or on one."""
    import checks

    bench = checks.Bench(torch.device("cuda"))
    if network:
        bench = checks.Bench(bench.device, networks={network: bench.networks[network]})
    return list(getattr(checks, name)(bench))


def benchmark(network: str, scale: int, size: int) -> list[dict]:
    """A network and size of performance/restoration.py, with all peers that are installed."""
    command = [sys.executable, "performance/restoration.py", "--again", "--turns", "3"]
    command += ["--networks", network.split("/")[0], "--scales", str(scale), "--sizes", str(size)]
    started = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True)
    return [quantity("seconds", time.monotonic() - started, network=network)]


def slice_of_table1(folder: Path, inputs: Path, images: int) -> list[str]:
    """Write a configuration into `folder`; returns the command that makes Table 1 of it."""
    config = yaml.safe_load((ROOT / "reproduction/config.yaml").read_text(encoding="utf-8"))
    tdips = config["experiments"]["tdips"] | {"images": images}
    chosen = ("none", "jpeg", "dip", "tdips")  # those that need neither training nor a download
    tdips["defenses"] = {name: tdips["defenses"][name] for name in chosen}
    tdips["classifiers"] = {"resnet50": tdips["classifiers"]["resnet50"]}
    config = {"experiments": {"tdips": tdips}, "tables": {"table1": config["tables"]["table1"]}}
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config, allow_unicode=True, sort_keys=False)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    (folder / "inputs").unlink(missing_ok=True)
    (folder / "inputs").symlink_to(inputs)
    # An earlier run may have been ended before it could take its lock away.
    command = [sys.executable, "-m", "snakemake", "--directory", str(folder), "--nolock"]
    command += ["--cores", str(min(8, os.cpu_count() or 1))]
    return [*command, "table1"]


def table1() -> list[dict]:
    """Table 1 on the real ResNet-50, on more images than a CPU could do."""
    subprocess.run(slice_of_table1(FOLDER, INPUTS, IMAGES), cwd=ROOT, check=True)
    card = torch.cuda.get_device_name()
    table = pd.read_csv(FOLDER / "results/tables/table1.csv").assign(device=card)
    known = pd.read_csv(TABLE1).query("device != @card") if TABLE1.exists() else None
    pd.concat([known, table]).round(4).to_csv(TABLE1, index=False)
    jobs = pd.concat(
        pd.read_csv(file, sep="\t") for file in FOLDER.glob("benchmarks/restore*/**/*.tsv")
    )
    return [quantity("seconds of all restorations", jobs["s"].sum()), quantity("images", IMAGES)]


def parts() -> dict[str, Part]:
    """All of them, in the order in which they are done: speed is the last thing to know."""
    resnet, photographs = INPUTS / "resnet50.safetensors", INPUTS / "nips2017dev"
    chosen = {f"tests:{name}": Part(partial(tests, name)) for name in TESTS}
    chosen |= {name: Part(partial(check, name)) for name in CHECKS}
    chosen["accuracy"] = Part(partial(check, "accuracy"), (resnet, photographs))
    chosen |= {name: Part(partial(check, name)) for name in MEASURED}
    chosen |= {f"speed:{name}": Part(partial(check, "speed", name)) for name in SPEEDS}
    for size in SIZES:
        for network, scale in BENCHMARK.items():
            chosen[f"benchmark:{network}:{size}"] = Part(partial(benchmark, network, scale, size))
    chosen["table1"] = Part(table1, (resnet, photographs), resumes=True)
    return chosen


def with_verdict(rows: list[dict], name: str, card: str) -> pd.DataFrame:
    """Rows of a part as they are written; NaN never passes."""
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    table["device"], table["torch"], table["part"] = card, torch.__version__, name
    bounded = table["limit"].notna()
    passed = table["value"].astype(float) <= table["limit"].astype(float)
    table["passed"] = passed.astype(object).where(bounded, None)
    return table


def write_rows(work: Callable[[], list[dict]], file: Path) -> None:
    """What a part's process does; it and its own processes can be ended together."""
    os.setsid()
    file.write_text(json.dumps(work()))


def apply(work: Callable[[], list[dict]], seconds: float) -> list[dict] | None:
    """Rows of a part; None where it was not done in so many seconds.

    It has a process of its own: after some of CUDA's errors a process can do nothing more.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.json")
        process = get_context("spawn").Process(target=write_rows, args=(work, file))
        process.start()
        try:
            process.join(None if seconds == math.inf else seconds)
            if process.exitcode is None:
                return None
            if process.exitcode == 0:
                return json.loads(file.read_text())
            return [quantity(f"ended with {process.exitcode}", 1, 0)]
        finally:
            if process.exitcode is None:  # its time is over, or this process is being ended
                for stop in (signal.SIGINT, signal.SIGKILL):
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, stop)
                    process.join(20)
                process.kill()  # in case that it was not its group's leader yet


def remaining(known: pd.DataFrame, card: str, chosen: dict[str, Part]) -> list[str]:
    """Parts of which there is no row yet of this card with this PyTorch."""
    here = known[(known["device"] == card) & (known["torch"] == torch.__version__)]
    return [name for name in chosen if name not in set(here["part"])]


def run(chosen: dict[str, Part], card: str, output: Path, minutes: float, again: list[str]) -> int:
    """Do what remains, write the rows of each part at once; returns the exit status."""
    end = time.monotonic() + 60 * minutes
    known = pd.read_csv(output) if output.exists() else pd.DataFrame(columns=COLUMNS)
    whole, done = True, []  # whether a part has all of this run's time; parts that it has done
    for name in remaining(known[~known["part"].isin(again)], card, chosen):
        part = chosen[name]
        if missing := [str(path) for path in part.needs if not path.exists()]:
            print(f"{name}: left out, needs {', '.join(missing)} (reproduction/inputs/README.md)")
            continue
        left = end - time.monotonic()
        seconds = left if part.resumes else min(MOST, left)
        if seconds >= LEAST:
            print(f"{name}:", flush=True)
            rows = apply(part.work, seconds)
        if seconds < LEAST or rows is None and (part.resumes or not whole and seconds < MOST):
            rest = [part for part in again if part not in done]
            how = f'with AGAIN="{" ".join(rest)}"' if rest else "without AGAIN"
            print(f"the time is over at {name}: run the command again, {how}, to go on")
            return MORE
        if rows is None:
            rows = [quantity(f"not done in {seconds:.0f} seconds", 1, 0)]
        whole = False
        done.append(name)
        table = with_verdict(rows, name, card)
        same = (known["device"] == card) & (known["part"] == name)
        known = pd.concat([known[~(same & (known["torch"] == torch.__version__))], table])
        known.to_csv(output, index=False, float_format="%.4g")
        shown = table[[*CASE, "value", "limit", "passed"]].dropna(axis=1, how="all")
        print(shown.to_string(index=False, na_rep="", float_format="%.3g"), flush=True)
    mine = (known["device"] == card) & (known["torch"] == torch.__version__)
    wrong = known[mine & (known["passed"].astype(str) == "False")]
    for _, row in wrong.iterrows():
        case = " ".join(str(row[name]) for name in CASE if pd.notna(row[name]))
        print(f"not as it should be: {row['part']}: {case}: {row['value']:.3g}")
    return 1 if len(wrong) else 0


def main() -> int:
    """Refuse without a GPU; else do what remains."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=math.inf, help="of this run")
    parser.add_argument("--again", nargs="*", default=[], choices=[*parts()], metavar="PART")
    parser.add_argument("--list", action="store_true", help="only name the parts")
    options = parser.parse_args()
    chosen = parts()
    if options.list:
        print(*chosen, sep="\n")
        return 0
    if not torch.cuda.is_available():
        return "make gpu needs an NVIDIA GPU that PyTorch can use, and found none"
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its part's process ends, too
    return run(chosen, torch.cuda.get_device_name(), OUTPUT, options.minutes, options.again)


if __name__ == "__main__":
    sys.exit(main())
