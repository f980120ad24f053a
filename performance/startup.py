"""What a job costs before and after its work: its script's imports, with and without quick_start.

python performance/startup.py [--turns 5]

Writes performance/startup.csv: of scripts of the workflow, the seconds that a process takes which
does nothing but their imports, plainly and in `quick_start` (medians of turns that alternate).
"""

import argparse
import ast
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pandas as pd
from restoration import processor

ROOT = Path(__file__).parents[1]
SCRIPTS = ("attack_defended.py", "restore.py", "table.py", "figure.py")


def imports(script: str, quick: bool) -> str:
    """The imports of a script, by themselves."""
    tree = ast.parse((ROOT / "scripts" / script).read_text(encoding="utf-8"))
    lines = []
    for node in tree.body:
        if isinstance(node, ast.With) and "quick_start" in ast.unparse(node.items[0]):
            lines += [node] if quick else node.body
        elif isinstance(node, ast.Import | ast.ImportFrom):
            lines.append(node)
    return "\n".join(map(ast.unparse, lines))


def seconds(code: str) -> float:
    """Wall time of a new process that runs `code` and ends."""
    env = os.environ | {"PYTHONPATH": str(ROOT / "scripts"), "OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    return time.perf_counter() - started


def main() -> None:
    """A row per script."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=5)
    turns, rows = parser.parse_args().turns, []
    for script in SCRIPTS:
        codes = {"plain_seconds": imports(script, False), "quick_seconds": imports(script, True)}
        times = {name: [] for name in codes}
        for _ in range(turns):
            for name, code in codes.items():
                times[name].append(seconds(code))
        row = {"device": processor(), "script": script}
        row |= {name: round(median(found), 2) for name, found in times.items()}
        rows.append(row | {"ratio": round(row["quick_seconds"] / row["plain_seconds"], 2)})
        print(rows[-1], flush=True)
    pd.DataFrame(rows).to_csv(ROOT / "performance/startup.csv", index=False)


if __name__ == "__main__":
    main()
