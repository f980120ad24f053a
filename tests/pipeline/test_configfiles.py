"""A key that stands twice, and two configurations that Snakemake would merge, are refused."""

import json
import subprocess
import sys

import pytest
import yaml

from tandem_defense.pipeline import configfiles

TWICE = """\
a: &anchor
  x: 1
b:
  - <<: *anchor
    <<: {y: 2}
    z: 1
  - {z: 1, z: 2}
c: *anchor
d:
  e:
    f: 1
  e: 2
c: 3
"""


def test_every_repeated_key_is_named_with_both_lines(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(TWICE)
    with pytest.raises(configfiles.FilesError) as caught:
        configfiles.read(file)
    lines = str(caught.value).splitlines()
    assert str(file) in lines[0] and lines[1:] == [
        "  b.1.z: found in line 7 and again in line 7; remove one",
        "  d.e: found in line 10 and again in line 12; remove one",
        "  c: found in line 8 and again in line 13; remove one",
    ]


def test_anchors_and_merge_keys_stay_what_they_are(tmp_path, root):
    file = tmp_path / "a.yaml"
    file.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: [*a, *a]\n1: one\n'1': text\n")
    assert configfiles.read(file) == yaml.safe_load(file.read_text())
    (tmp_path / "a.json").write_text(json.dumps({"a": [1, {"b": None}]}, indent=2))
    assert configfiles.read(tmp_path / "a.json") == {"a": [1, {"b": None}]}
    file.write_text("# nothing\n")
    assert configfiles.read(file) == {}
    for path in (root / "config.yaml", root / "demo/config.yaml"):
        assert configfiles.read(path) == yaml.safe_load(path.read_text())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("- a", "found a list at its top level"),
        ("a: !!python/object/apply:os.mkdir [x]", "could not determine a constructor"),
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(configfiles.FilesError, match=message):
        configfiles.read(tmp_path / "a.yaml")
    with pytest.raises(configfiles.FilesError, match="cannot be read: No such file"):
        configfiles.read(tmp_path / "b.yaml")


def test_each_part_stands_in_one_file(tmp_path):
    files = {}
    for name, keys in {"own": ("experiments", "tables"), "mine": ("tables",), "small": ()}.items():
        files[name] = tmp_path / f"{name}.yaml"
        files[name].write_text(yaml.safe_dump(dict.fromkeys((*keys, "offline"), {})))
    own, mine, small = files.values()
    configfiles.check(own, [small], replaces=False)
    configfiles.check(own, [own], replaces=False)
    configfiles.check(own, [mine], replaces=True)
    configfiles.check(tmp_path / "missing.yaml", [mine], replaces=False)
    for given, replaces in (([mine], False), ([own, mine], True)):
        with pytest.raises(configfiles.FilesError, match=r"tables: found in .* one file.*--direc"):
            configfiles.check(own, given, replaces)


def dry_run(root, *arguments) -> tuple[bool, str]:
    """Whether a dry run succeeds, and what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", *map(str, arguments)],
        cwd=root,
        capture_output=True,
        text=True,
    )
    return done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("option", ["--directory", "--configfile"])
def test_snakemake_refuses_a_key_that_stands_twice(root, tmp_path, option):
    text = (root / "demo/config.yaml").read_text()
    text = text.replace("      jpeg: {", "      blur: {kind: average_blur}\n      jpeg: {")
    (tmp_path / "config.yaml").write_text(text)
    path = tmp_path if option == "--directory" else tmp_path / "config.yaml"
    succeeded, printed = dry_run(root, option, path)
    lines = [i for i, line in enumerate(text.splitlines(), 1) if line.startswith("      blur: {")]
    assert not succeeded and "Traceback" not in printed
    expected = f"blur: found in line {lines[0]} and again in line {lines[1]}; remove one"
    assert f"experiments.tdips.defenses.{expected}" in printed


def test_snakemake_refuses_to_merge_two_configurations(root, tmp_path):
    """Values of their own may be overridden, in a file or on the command line."""
    succeeded, printed = dry_run(root, "--configfile", "demo/config.yaml")
    assert not succeeded and "experiments: found in" in printed and "Traceback" not in printed
    assert "demo/config.yaml" in printed and "--directory FOLDER" in printed
    (tmp_path / "small.yaml").write_text("keep_adversarial: false\n")
    succeeded, printed = dry_run(root, "--configfile", tmp_path / "small.yaml")
    assert succeeded, printed
    succeeded, printed = dry_run(root, "--config", "keep_adversarial=False")
    assert succeeded, printed
    alone = ("--configfile", "demo/config.yaml", "--replace-workflow-config")
    succeeded, printed = dry_run(root, *alone, "results/predictions/funn.parquet")
    assert succeeded and "shufflenet" not in printed and "inception_v3" not in printed, printed
