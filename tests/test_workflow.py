"""The workflow for real, in small: interrupted, resumed, run again, changed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import yaml
from checkout import copy_workflow, planned, snakemake

from tandem_defense import cache

TARGET = "results/predictions/tdips.parquet"


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    """A finished run of both experiments, tiny, with two chunks, killed once on the way."""
    checkout = copy_workflow(root, tmp_path_factory.mktemp("workflow"))
    file = checkout / "demo/config.yaml"
    config = yaml.safe_load(file.read_text())
    experiment = config["experiments"]["tdips"]
    experiment |= {"images": 2, "chunks": 2}
    small = experiment["classifiers"]["small"]
    small["training"] = {"epochs": 1}
    experiment["dataset"] |= {"train": 140}
    experiment["classifiers"] = {"small": small}
    for name in ("deepfool", "mifgsm", "cw"):
        del experiment["attacks"][name]
    for name in ("hgd", "comdefend"):
        del experiment["defenses"][name]
    for name in ("dip", "tdips"):
        experiment["defenses"][name] |= {"feature_scale": 32}
    config["tables"]["table1"] |= {"first_iterations": 1, "iterations": 2}
    config["figures"]["figure3"] |= {"iterations": 4, "every": 2}
    config["figures"]["figure6"] |= {"attacks": ["bim"], "iterations": 4, "every": 2}
    config["figures"]["figure6"] |= {"first_iterations": [1, 2]}
    config["figures"]["figure7"] |= {"first_iterations": 1, "iterations": 4, "images": 2}
    config["figures"]["figure8"] |= {"first_iterations": 1, "iterations": 4, "images": 2}
    funn = config["experiments"]["funn"]
    funn |= {"images": 6}
    funn["classifiers"]["classic"]["training"] = {"epochs": 1, "head_epochs": 2}
    epochs = {"initialization_epochs": 1, "optimization_epochs": 1, "head_epochs": 2}
    funn["classifiers"]["funn"]["training"] = epochs
    funn["defenses"]["magnet"]["training"] = {"epochs": 1}
    funn["attacks"] = {n: funn["attacks"][n] for n in ("deepfool_l2_50", "single_pixel")}
    file.write_text(yaml.safe_dump(config, sort_keys=False))

    # Killed without warning as soon as the first attacked chunk is there.
    command = [sys.executable, "-m", "snakemake", "--directory", "demo", "--cores", "2", TARGET]
    log = checkout / "killed.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=checkout, start_new_session=True, stdout=file, stderr=file
        )
    results = checkout / "demo/results"
    deadline = time.monotonic() + 300
    while not list(results.glob("adversarial/**/*.safetensors")) and time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = {p: p.stat().st_mtime_ns for p in results.glob("[ic]*/**/*.safetensors")}
    assert finished and not (checkout / "demo" / TARGET).exists()

    snakemake(checkout, "--unlock")
    done = snakemake(checkout, "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    return checkout, finished


def test_a_killed_run_goes_on_where_it_was(run):
    _, finished = run
    for path, time_stamp in finished.items():  # images and classifiers were not made again
        assert path.stat().st_mtime_ns == time_stamp


def test_a_second_run_has_nothing_to_do(run):
    checkout, _ = run
    assert planned(snakemake(checkout, "-n")) == {}


def test_every_artifact_is_there(run):
    checkout, _ = run
    results = checkout / "demo/results"
    for name in ("table1", "table2"):
        for ending in ("csv", "md", "tex"):
            assert (results / f"tables/{name}.{ending}").stat().st_size > 100
    for name in ("figure3", "figure6", "figure7", "figure8", "funn_figure2"):
        assert (results / f"figures/{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (results / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
    table = pd.read_csv(results / "tables/table1.csv")
    columns = "dataset classifier defense attack n accuracy low high published".split()
    assert list(table) == columns
    assert len(table) == 4 * 3 and (table["n"] == 2).all() and table["published"].isna().all()
    table = pd.read_csv(results / "tables/table2.csv")
    assert set(table["model"]) == {"classic", "magnet", "funn"} and len(table) == 6
    claims = pd.read_csv(results / "tables/claims.csv")
    assert set(claims["numbers"]) == {"published", "measured"}
    provenance = json.loads((results / "provenance.json").read_text())
    timing = pd.read_csv(results / "tables/timing.csv", index_col="rule")
    files = list((checkout / "demo/benchmarks").rglob("*.tsv"))
    assert timing.loc["all", "jobs"] == len(files) - 1  # all but its own
    assert {"attack", "restore", "curve", "provenance"} < set(timing.index)
    assert provenance["seeds"] == {"tdips": [0], "funn": [0]} and provenance["packages"]["torch"]


def test_the_report_can_be_made(run):
    checkout, _ = run
    done = snakemake(checkout, "--cores", "1", "--report", "results/report.html")
    assert done.returncode == 0, done.stdout + done.stderr
    page = (checkout / "demo/results/report.html").read_text()
    assert "oblivious" in page and "Table 1" in page


def test_time_stamps_of_code_do_not_matter(run):
    checkout, _ = run
    for path in (checkout / "scripts").rglob("*.py"):
        path.touch()
    assert planned(snakemake(checkout, "-n", TARGET)) == {}


def test_the_rows_are_complete_and_typed(run):
    checkout, _ = run
    rows = pd.read_parquet(checkout / "demo" / TARGET)
    keys = ["classifier", "attack", "defense", "first_iterations", "iteration"]
    cells = rows.groupby(keys).size()
    assert (cells == 2).all() and not rows.duplicated([*keys, "image", "seed"]).any()
    assert set(rows["attack"]) == {"clean", "fgsm", "bim"}
    feed_forward = {("none", 0, 0), ("blur", 0, 0), ("jpeg", 0, 0)}
    found = {key[2:] for key in cells.index if key[1] == "clean"}
    assert found == feed_forward | {("tdips", 1, 2)}
    found = {key[2:] for key in cells.index if key[1] == "fgsm"}
    assert found == feed_forward | {("tdips", 1, 2)}
    found = {key[2:] for key in cells.index if key[1] == "bim"}
    tandem = {("tdips", first, i) for first in (1, 2) for i in (2, 4)}
    assert found == feed_forward | tandem | {("dip", 0, 2), ("dip", 0, 4)}
    assert rows["rejected"].dtype == bool and rows["linf"].dtype == "float32"
    clean = rows[rows["attack"] == "clean"]
    assert (clean["linf"] == 0).all()
    none = clean[clean["defense"] == "none"]
    assert (none["prediction"] == none["clean_prediction"]).all()
    attacked = rows[(rows["attack"] == "bim") & (rows["defense"] == "none")]
    assert ((attacked["prediction"] != attacked["label"]) == attacked["success"]).all()


def test_the_plan_counts_what_was_run(run):
    """Jobs, optimizer steps and bytes, against the files and logs of the finished run."""
    checkout, _ = run
    done = snakemake(checkout, "--cores", "1", "plan")
    assert done.returncode == 0, done.stdout + done.stderr
    results = checkout / "demo/results"
    table = pd.read_csv(results / "tables/plan.csv").set_index(["experiment", "work"])
    for name in ("tdips", "funn"):
        attacked = list((results / "adversarial" / name).rglob("*.safetensors"))
        assert table.loc[(name, "attack"), "jobs"] == len(attacked)
        trained = [*(results / "classifiers" / name).rglob("*.safetensors")]
        trained += (results / "defenses" / name).rglob("*.safetensors")
        assert table.loc[(name, "train or convert"), "jobs"] == len(trained)
        size = sum(file.stat().st_size for file in attacked) / 1e9
        assert table.loc[(name, "attack"), "gigabytes"] == pytest.approx(size, rel=0.2, abs=1e-3)
    predictions = pd.read_parquet(results / "predictions/tdips.parquet")
    for defense in ("dip", "tdips"):
        rows = predictions[predictions["defense"] == defense]
        sets = rows.groupby(["classifier", "attack", "image"], observed=True)
        second = sets[["iteration"]].max()["iteration"] * sets["first_iterations"].nunique()
        assert table.loc[("tdips", defense), "second_steps"] == second.sum()
        assert table.loc[("tdips", defense), "first_steps"] == sets["first_iterations"].max().sum()
    jobs = table["jobs"].to_list()  # the last row is all the others
    assert jobs[-1] == sum(jobs[:-1])


def test_the_committed_plan_is_that_of_the_shipped_configuration(root, tmp_path):
    checkout = copy_workflow(root, tmp_path / "checkout")
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "plan"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = (checkout / "results/tables/plan.md").read_text()
    assert found == (root / "docs/plan.md").read_text(), "copy it to docs/plan.md"


def test_attacked_images_go_after_use_where_asked(run, tmp_path):
    """A copy of the finished run, without one attack's files: they come and go again."""
    checkout, _ = run
    copy = shutil.copytree(checkout, tmp_path / "run", symlinks=True)
    file = copy / "demo/config.yaml"
    config = yaml.safe_load(file.read_text()) | {"keep_adversarial": False}
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    folder = copy / "demo/results/adversarial/funn/0/funn"
    lost = copy / "demo/results/predictions/funn/0/funn/feed_forward"
    shutil.rmtree(folder / "single_pixel")
    made = [copy / "demo/results" / n for n in ("predictions/funn.parquet", "tables/table2.csv")]
    for file in (*lost.iterdir(), *made):
        file.unlink()
    done = snakemake(copy, "table2", "--cores", "2", "--rerun-triggers", "mtime")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(lost.iterdir()) and not list(folder.rglob("*.safetensors"))
    assert planned(snakemake(copy, "table2", "-n", "--rerun-triggers", "mtime")) == {}


def test_chunks_agree_with_the_whole(run):
    """Chunk 1 and chunk 2 hold different images, and no image depends on its chunk."""
    checkout, _ = run
    folder = checkout / "demo/results/adversarial/tdips/0/small/bim"
    chunks = [cache.read_adversarial(folder / f"{i}-of-2.safetensors") for i in (1, 2)]
    images = cache.read_images(checkout / "demo/results/images/tdips/test.safetensors")
    assert [c.ids for c in chunks] == [images.ids[:1], images.ids[1:2]]


def test_a_setting_reruns_exactly_what_depends_on_it(run):
    checkout, _ = run
    file = checkout / "demo/config.yaml"
    before = file.read_text()
    try:
        config = yaml.safe_load(before)
        config["experiments"]["tdips"]["attacks"]["fgsm"]["epsilon"] = "4/255"
        file.write_text(yaml.safe_dump(config, sort_keys=False))
        # two chunks attacked, then evaluated and restored by t-DIPs
        expected = {"attack": 2, "evaluate": 2, "restore": 2, "gather_predictions": 1}
        assert planned(snakemake(checkout, "-n", TARGET)) == expected

        config = yaml.safe_load(before)
        config["experiments"]["tdips"]["defenses"]["dip"]["smoothing"] = 0.5
        file.write_text(yaml.safe_dump(config, sort_keys=False))
        expected = {"restore": 2, "gather_predictions": 1}
        assert planned(snakemake(checkout, "-n", TARGET)) == expected
    finally:
        file.write_text(before)


def test_code_reruns_exactly_what_depends_on_it(run):
    checkout, _ = run
    expected = {
        "tandem_defense/attacks/gradient.py": {
            "attack": 2, "evaluate": 2, "restore": 2, "gather_predictions": 1,
        },
        "tandem_defense/defenses/controls.py": {"evaluate": 2, "gather_predictions": 1},
        "tandem_defense/restoration/engine.py": {
            "restore": 6, "restore_clean": 2, "gather_predictions": 1,
        },
    }  # fmt: skip
    for name, jobs in expected.items():
        path = checkout / "scripts" / name
        before = path.read_text()
        try:
            path.write_text(before + "\n# changed\n")
            done = snakemake(checkout, "-n", TARGET)
            assert planned(done) == jobs, name
            assert "Params have changed" in done.stdout
        finally:
            path.write_text(before)


def test_a_truncated_cache_names_itself_and_its_rule(run):
    checkout, _ = run
    path = checkout / "demo/results/adversarial/tdips/0/small/bim/2-of-2.safetensors"
    content = path.read_bytes()
    row = "results/predictions/tdips/0/small/feed_forward/2-of-2.parquet"
    output = checkout / "demo" / row
    kept = output.read_bytes()
    stat = path.stat()
    try:
        path.write_bytes(content[:-100])
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        done = snakemake(
            checkout, "--cores", "1", "--force", "--allowed-rules", "evaluate", "--", row
        )
        assert done.returncode != 0
        message = done.stdout + done.stderr
        assert "2-of-2.safetensors is truncated" in message and "rule attack" in message
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        output.write_bytes(kept)
