"""The table of where a run's time went, from Snakemake's benchmark files."""

import pytest

from tandem_defense.artifacts import timing
from tandem_defense.files.base import FileError

HEAD = "s h:m:s max_rss max_vms max_uss max_pss io_in io_out mean_load cpu_time".split()


def write(path, *rows):
    """A benchmark file of (seconds, memory, cpu seconds), as Snakemake writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [HEAD]
    for seconds, memory, cpu in rows:
        lines.append([seconds, "0:00:00", memory, *["1"] * 5, "9", cpu])
    path.write_text("".join("\t".join(map(str, line)) + "\n" for line in lines))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "attack/digits/0/fgsm/1-of-2.tsv", (10, 300, 15))
    write(tmp_path / "attack/digits/0/fgsm/2-of-2.tsv", (20, 500, 23.25))
    write(tmp_path / "table1.tsv", (4.0, 100, 2), (6.0, 90, 3))  # a repeated benchmark
    write(tmp_path / "claims.tsv", (0.1, "NA", "NA"))
    write(tmp_path / "timing.tsv", (1000, 9999, 1))
    return tmp_path


def test_a_row_per_rule_the_costliest_first(folder):
    table = timing.gather(folder, omit="timing").set_index("rule")
    assert list(table.index) == ["attack", "table1", "claims", "all"]
    assert table.loc["attack"].to_dict() == pytest.approx(
        {"jobs": 2, "seconds": 30, "mean": 15, "max": 20, "memory_mb": 500, "load": 1.5}
        | {"share": 30 / 40.1}
    )
    assert table.loc["table1", ["jobs", "seconds", "load"]].tolist() == [2, 10, 0.5]
    assert table.loc["claims", ["memory_mb", "load"]].isna().all()
    everything = table.loc["all"]
    assert everything["jobs"] == 5 and everything["seconds"] == pytest.approx(40.1)
    assert everything["memory_mb"] == 500 and everything["share"] == 1
    assert everything["load"] == pytest.approx(43.25 / 35.5)  # over the time that was measured
    assert table["share"].drop("all").sum() == pytest.approx(1)


def test_the_processor_time_is_that_of_the_last_look(tmp_path):
    write(tmp_path / "restore/a.tsv", (40.0, 1, 15.5))  # one core; looked at 15.5 s, not at 40
    write(tmp_path / "attack/a.tsv", (70.0, 1, 45.5))  # 45.5 s
    table = timing.gather(tmp_path).set_index("rule")
    assert table["load"].tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b'"open'])
def test_a_damaged_file_is_named(folder, content):
    (folder / "claims.tsv").write_bytes(content)
    with pytest.raises(FileError, match="claims.tsv cannot be read as a table .*Delete it: the"):
        timing.gather(folder)


def test_nothing_is_left_out_unasked(folder):
    assert timing.gather(folder).set_index("rule").loc["timing", "seconds"] == 1000


def test_markdown_shows_every_rule(folder):
    lines = timing.markdown(timing.gather(folder, omit="timing")).splitlines()
    cells = {line.split("|")[1].strip(): line.split("|") for line in lines if "|" in line}
    assert [c.strip() for c in cells["attack"][2:9]] == "2 30.0 15.0 20.0 500 1.50 74.8%".split()
    assert cells["claims"][6].strip() == "" and cells["claims"][7].strip() == ""
    assert cells["all"][8].strip() == "100.0%"


def test_no_files(tmp_path, folder):
    table = timing.gather(tmp_path / "none")
    assert table.empty and list(table) == list(timing.gather(folder))
    assert timing.markdown(table) == "No job has left a benchmark file here.\n"
