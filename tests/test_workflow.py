"""The workflow for real, in a tiny configuration: interrupted, resumed, run again, changed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256

import pandas as pd
import pytest
import tiny
import yaml
from browser import browser  # noqa: F401
from checkout import copy_workflow, planned, snakemake, unfinished

from tandem_defense.files.adversarial import read_adversarial
from tandem_defense.files.images import read_images

TARGET = "results/predictions/tdips.parquet"


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    """A finished run of both experiments, tiny, with two chunks, killed once on the way."""
    checkout = copy_workflow(root, tmp_path_factory.mktemp("workflow"))
    config = tiny.configuration()
    (checkout / "demo/config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

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
    for name in ("table1", "table2", "table3", "checklist", "comparisons", "claims"):
        for ending in ("csv", "md", "tex"):
            assert (results / f"tables/{name}.{ending}").stat().st_size > 100
    for name in ("figure3", "figure6", "figure7", "figure8", "figure9", "funn_figure2"):
        assert (results / f"figures/{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (results / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert len(pd.read_csv(results / f"figures/{name}.csv"))
    page = (results / "gallery.html").read_text()
    assert len(page) < 15e6 and page.count("data:image/webp") > 20
    for name in ("Table 1", "t-DIPs, λ₁ = 2", "funn_figure2"):
        assert name in page
    table = pd.read_csv(results / "tables/table1.csv")
    columns = "dataset classifier defense attack first_iterations iteration".split()
    columns += "n accuracy low high seeds published".split()
    assert list(table) == columns
    assert len(table) == 4 * 3 and (table["n"] == 2).all() and table["published"].isna().all()
    table = pd.read_csv(results / "tables/table2.csv")
    assert set(table["model"]) == {"classic", "magnet", "funn"} and len(table) == 6
    claims = pd.read_csv(results / "tables/claims.csv")
    assert set(claims["numbers"]) == {"published", "measured"}
    provenance = json.loads((results / "provenance.json").read_text())
    timing = pd.read_csv(results / "tables/timing.csv", index_col="rule")
    later = ("crate.tsv", "plan.tsv")  # of jobs that other tests ask for
    files = [f for f in (checkout / "demo/benchmarks").rglob("*.tsv") if f.name not in later]
    assert timing.loc["all", "jobs"] == len(files) - 1  # all but its own
    assert {"attack", "restore", "figures", "provenance"} < set(timing.index)
    assert provenance["seeds"] == {"tdips": [0], "funn": [0]} and provenance["packages"]["torch"]


@pytest.mark.parametrize("rule", ["train_classifier", "train_defense", "attack", "restore"])
def test_the_log_of_a_long_job_counts_all_of_its_work(run, rule):
    checkout, _ = run
    assert unfinished(checkout / "demo/logs" / rule) == []


@pytest.fixture(scope="module")
def report(run):
    checkout, _ = run
    done = snakemake(checkout, "--cores", "1", "--report", "results/report.html")
    assert done.returncode == 0, done.stdout + done.stderr
    return checkout / "demo/results/report.html"


def test_the_report_can_be_made(run, report):
    checkout, _ = run
    page = report.read_text()
    assert "oblivious" in page and "Table 1" in page
    text = (checkout / "demo/results/summary.rst").read_text()
    assert "What came out" in page and "tdips: t-DIPs" in text and "tdips: t-DIPs" in page


def test_the_report_shows_the_gallery(report, browser):  # noqa: F811
    tab = browser.new_page()
    tab.goto(report.as_uri())
    tab.click("nav >> text=Gallery")
    tab.click("nav table a")
    frame = tab.wait_for_selector("iframe").content_frame()
    assert frame.wait_for_selector("article .moving img").is_visible()


def test_the_crate_has_every_adversarial_set(run):
    checkout, _ = run
    done = snakemake(checkout, "--cores", "1", "crate")
    assert done.returncode == 0, done.stdout + done.stderr
    results = checkout / "demo/results"
    entities = json.loads((results / "ro-crate-metadata.json").read_text())["@graph"]
    hashes = {entity["@id"]: entity["sha256"] for entity in entities if "sha256" in entity}
    for file in results.glob("adversarial/**/*.safetensors"):
        content = sha256(file.read_bytes()).hexdigest()
        assert hashes[file.relative_to(results).as_posix()] == content
    assert {"provenance.json", "gallery.html", "tables/table1.csv"} < set(hashes)


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
    chunks = [read_adversarial(folder / f"{i}-of-2.safetensors") for i in (1, 2)]
    images = read_images(checkout / "demo/results/images/tdips/test.safetensors")
    assert [c.ids for c in chunks] == [images.ids[:1], images.ids[1:2]]


def edit_yaml(path, value, *, remove=False):
    """A change of the configuration under a dotted key, e.g. ``edit_yaml("tables.x", {…})``."""

    def change(checkout):
        file = checkout / "demo/config.yaml"
        config = yaml.safe_load(file.read_text())
        *parents, last = path.split(".")
        place = config
        for key in parents:
            place = place[key]
        if remove:
            del place[last]
        else:
            place[last] = value
        file.write_text(yaml.safe_dump(config, sort_keys=False))

    return change


def edit_code(path, text="\n\nCHANGED = 1\n"):
    """A change at the end of a file of the checkout."""

    def change(checkout):
        file = checkout / path
        file.write_text(file.read_text() + text)

    return change


PACKAGE = "scripts/tandem_defense/"
# What is changed, and the rules that then run before tables and figures, with their jobs.
CHANGES = {
    "a label, `control` or `paper`": (
        edit_yaml("experiments.tdips.defenses.jpeg.label", "JPEG"),
        {},
    ),
    "the order or number of images of a figure": (
        edit_yaml("figures.figure7.defenses", ["tdips", "dip"]),
        {},
    ),
    "a table or figure, added or removed": (
        edit_yaml("figures.figure7", None, remove=True),
        {},
    ),
    "a comment or docstring": (edit_code(PACKAGE + "attacks/base.py", "\n\n# A comment.\n"), {}),
    "a caption in report/": (edit_code("report/curve.rst", "\nMore words.\n"), {}),
    "a setting of an attack": (
        edit_yaml("experiments.tdips.attacks.fgsm.epsilon", "4/255"),
        {"attack": 2, "evaluate": 2, "restore": 2, "gather_predictions": 1},
    ),
    "a setting of a feed-forward defense": (
        edit_yaml("experiments.tdips.defenses.jpeg.quality", 50),
        {
            "evaluate": 2,
            "gather_predictions": 1,
            "attack_defended": 2,
            "evaluate_threats": 2,
            "gather_threats": 1,
        },
    ),
    "a setting of a restoration, or its read-outs": (
        edit_yaml("experiments.tdips.defenses.dip.smoothing", 0.5),
        {"restore": 2, "gather_predictions": 1},
    ),
    "a defense, added": (
        edit_yaml("experiments.tdips.defenses.blur5", {"kind": "average_blur", "kernel": 5}),
        {"evaluate": 2, "gather_predictions": 1},
    ),
    "a setting of a threat": (
        edit_yaml("experiments.tdips.threats.exact.epsilons", ["4/255"]),
        {"attack_defended": 2, "evaluate_threats": 2, "gather_threats": 1},
    ),
    "a threat, added": (
        edit_yaml(
            "experiments.tdips.threats.low",
            {
                "kind": "low_frequency",
                "attack": {"kind": "pgd", "semantics": "fixed"},
                "epsilons": ["8/255"],
                "only": {"defenses": ["jpeg"]},
            },
        ),
        {"attack_defended": 2, "evaluate_threats": 2, "gather_threats": 1},
    ),
    "an attack, added": (
        edit_yaml("experiments.tdips.attacks.pgd", {"kind": "pgd"}),
        {"attack": 2, "evaluate": 2, "restore": 2, "gather_predictions": 1},
    ),
    "an attack that spares a classifier from now on": (
        edit_yaml("experiments.funn.attacks.single_pixel.only", {"classifiers": ["funn"]}),
        {"evaluate": 1, "gather_predictions": 1},
    ),
    "how a classifier is trained": (
        edit_yaml("experiments.funn.classifiers.classic.training.epochs", 2),
        {
            "train_classifier": 1,
            "attack": 2,
            "evaluate": 1,
            "gather_predictions": 1,
        },
    ),
    "code of one family of attacks": (
        edit_code(PACKAGE + "attacks/gradient.py"),
        {"attack": 2, "evaluate": 2, "restore": 2, "gather_predictions": 1},
    ),
    "code of one feed-forward defense": (
        edit_code(PACKAGE + "defenses/controls.py"),
        {
            "evaluate": 2,
            "gather_predictions": 1,
            "attack_defended": 2,
            "evaluate_threats": 2,
            "gather_threats": 1,
        },
    ),
    "code of one threat": (
        edit_code(PACKAGE + "threats/through.py"),
        {"attack_defended": 2, "evaluate_threats": 2, "gather_threats": 1},
    ),
    "code that judges what threats have made": (
        edit_code(PACKAGE + "pipeline/threats.py"),
        {"attack_defended": 6, "evaluate_threats": 4, "gather_threats": 1},
    ),
    "code of one trained defense": (
        edit_code(PACKAGE + "defenses/magnet.py"),
        {"train_defense": 1, "evaluate": 1, "gather_predictions": 1},
    ),
    "code of one family of classifiers": (
        edit_code(PACKAGE + "classifiers/small.py"),
        {
            "train_classifier": 1,
            "attack": 4,
            "restore": 6,
            "restore_clean": 2,
            "evaluate": 2,
            "gather_predictions": 1,
            "attack_defended": 6,
            "evaluate_threats": 4,
            "gather_threats": 1,
        },
    ),
    "code of the restoration engine": (
        edit_code(PACKAGE + "restoration/engine.py"),
        {"restore": 6, "restore_clean": 2, "gather_predictions": 1},
    ),
    "code of the stage `evaluate`": (
        edit_code(PACKAGE + "pipeline/evaluate.py"),
        {"evaluate": 3 + 1, "gather_predictions": 2},
    ),
    "code of the stage `restore`": (
        edit_code(PACKAGE + "pipeline/restore.py"),
        {"restore": 6, "restore_clean": 2, "gather_predictions": 1},
    ),
    "code of the download client": (edit_code(PACKAGE + "files/download.py"), {}),
    "code that checks a configuration": (
        edit_code(PACKAGE + "pipeline/configuration.py"),
        {},
    ),
    "a class, registered": (
        edit_code(PACKAGE + "pipeline/registry.py", '\nDEFENSES["x"] = "x:X"\n'),
        {},
    ),
    "code of one kind of figure": (edit_code(PACKAGE + "artifacts/curve.py"), {}),
    "code of one kind of table": (edit_code(PACKAGE + "artifacts/success.py"), {}),
    "code of the statistics": (edit_code(PACKAGE + "evaluation/statistics.py"), {}),
}
# Tables and figures that are drawn again, where it is not as many as show an experiment.
DRAWN = {
    "the order or number of images of a figure": "figure7",
    "a table or figure, added or removed": "",
    "a comment or docstring": "",
    "a setting of a threat": "checklist figure9 table3",
    "an attack that spares a classifier from now on": "table2",
    "how a classifier is trained": "funn_figure2 table2",
    "code of one trained defense": "table2",
    "code of the stage `evaluate`": "claims comparisons figure3 figure6 table1 table2",
    "code of the stage `restore`": "claims comparisons figure3 figure6 figure7 figure8 table1",
    "code of one kind of figure": "claims figure3 figure6 figure9",
    "code of one kind of table": "table2",
    "code of the statistics": "checklist claims comparisons figure3 figure6 figure9 table1 table2"
    " table3",
}
ARTIFACTS = {*tiny.configuration()["tables"], *tiny.configuration()["figures"]}
ALWAYS = {
    *ARTIFACTS,
    "gallery",
    "summary",
    "overview",
    "provenance",
    "timing",
    "all",
    "tables",
    "figures",
}


def changed_jobs(checkout, change) -> dict[str, int]:
    """The jobs that a change plans; the checkout is as it was afterwards."""
    files = [checkout / "demo/config.yaml", checkout / "report/curve.rst"]
    files += [p for p in (checkout / "scripts").rglob("*.py")]
    before = {file: file.read_text() for file in files}
    try:
        change(checkout)
        return planned(snakemake(checkout, "-n"))
    finally:
        for file, text in before.items():
            if file.read_text() != text:
                file.write_text(text)


def page(rows: dict[str, dict[str, int]]) -> str:
    """docs/changes.md."""
    lines = []
    for what, jobs in rows.items():
        rules = ", ".join(f"`{name}`" for name in jobs if name not in ALWAYS)
        drawn = sum(name in ARTIFACTS for name in jobs)
        last = "none" if not drawn else "only what shows it" if drawn < 5 else "all that show it"
        lines.append(f"| {what} | {rules or 'none'} | {last} |")
    return (
        "# What a change runs again\n\n"
        "Made and checked by `tests/test_workflow.py`: each row is a dry run of a finished run with"
        " that one change.\nA rule runs only for what the change touches. Tables and figures take"
        " seconds; what follows them is the gallery, summary, overview,"
        " provenance and timing.\n\n"
        "| what I change | rules that run | tables and figures |\n|---|---|---|\n"
        + "\n".join(lines)
        + "\n"
    )


def test_a_change_reruns_exactly_what_depends_on_it(run, root):
    checkout, _ = run
    rows = {}
    for what, (change, expected) in CHANGES.items():
        rows[what] = jobs = changed_jobs(checkout, change)
        assert {n: c for n, c in jobs.items() if n not in ALWAYS} == expected, (what, jobs)
        if what in DRAWN:
            assert sorted(ARTIFACTS & {*jobs}) == DRAWN[what].split(), what
    assert not rows["a comment or docstring"] and not rows["code that checks a configuration"]
    made = checkout.parent / "changes.md"
    made.write_text(page(rows))
    assert (root / "docs/changes.md").read_text() == page(rows), f"copy {made} to docs/"


def test_the_checkout_may_move(run, tmp_path):
    """Nothing is planned where the same results lie in another folder."""
    checkout, _ = run
    moved = shutil.copytree(checkout, tmp_path / "moved", symlinks=True)
    assert planned(snakemake(moved, "-n")) == {}


def test_paper_figures_and_nothing_else(run):
    checkout, _ = run
    done = snakemake(checkout, "-n", "--forceall", "regenerate_paper_figures")
    jobs = set(planned(done))
    assert {"table1", "table2", "figure6"} <= jobs
    assert not {"comparisons", "figure3", "figure7", "overview", "timing"} & jobs


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
