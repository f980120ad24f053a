"""What Snakemake itself costs: planning, against the number of jobs, and its share of a real run.

python performance/scale.py [--run demo] [--cores 2]

Writes performance/scale.csv: seconds of `snakemake -n` on config.yaml with its chunks, with 4 times
and with 16 times as many; and performance/orchestration.csv: of the folder `--run`, where the whole
workflow has run once from nothing with `--cores`, its wall time and what the jobs took of it, a row
per processor that this has been measured on.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import yaml
from restoration import processor

ROOT = Path(__file__).parents[1]
HERE = ROOT / "performance"


def planning() -> pd.DataFrame:
    """A row per number of chunks."""
    rows, base = [], yaml.safe_load((ROOT / "config.yaml").read_text())
    for factor in (1, 4, 16):
        config = yaml.safe_load(yaml.safe_dump(base))
        photographs = config["experiments"]["tdips"]
        photographs["chunks"] *= factor
        least = photographs.get("threat_images", photographs["images"])
        photographs["threat_images"] = max(least, photographs["chunks"])
        with TemporaryDirectory() as folder:
            (Path(folder) / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
            command = [sys.executable, "-m", "snakemake", "--directory", folder, "-n"]
            started = time.perf_counter()
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            seconds = time.perf_counter() - started
        jobs = int(re.search(r"(?m)^total +(\d+)$", done.stdout)[1])
        rows.append({"chunks": photographs["chunks"], "jobs": jobs, "seconds": round(seconds, 1)})
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def orchestration(folder: Path, cores: int) -> pd.DataFrame:
    """One row: the run with the most jobs that Snakemake has a log of."""
    logs = [path.read_text() for path in (folder / ".snakemake/log").glob("*.log")]
    log = max(logs, key=lambda text: text.count("Finished jobid"))
    hours, minutes, seconds = re.search(r"Elapsed time: (\d+):(\d+):([\d.]+)", log).groups()
    wall = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    timing = pd.read_csv(folder / "results/tables/timing.csv", index_col="rule").loc["all"]
    row = {"device": processor(), "cores": cores, "jobs": int(timing["jobs"])}
    row["wall_seconds"] = round(wall, 1)
    row["job_seconds"] = round(timing["seconds"], 1)
    row["share_outside_jobs"] = round(1 - timing["seconds"] / (cores * wall), 3)
    row["core_seconds_per_job"] = round((cores * wall - timing["seconds"]) / timing["jobs"], 2)
    return pd.DataFrame([row])


def main() -> None:
    """Both files."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, default=ROOT / "demo")
    parser.add_argument("--cores", type=int, default=2)
    options = parser.parse_args()
    found = orchestration(options.run, options.cores)
    print(found.iloc[0].to_dict(), flush=True)
    earlier = pd.read_csv(HERE / "orchestration.csv")
    others = earlier[earlier["device"] != found["device"].iloc[0]]
    pd.concat([others, found]).to_csv(HERE / "orchestration.csv", index=False)
    planning().to_csv(HERE / "scale.csv", index=False)


if __name__ == "__main__":
    main()
