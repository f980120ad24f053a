"""The RO-Crate: every file with its hash, readable by the library that reads others' crates."""

import subprocess
from hashlib import sha256

import pytest
from rocrate.rocrate import ROCrate

from tandem_defense.pipeline import crate, provenance

PROVENANCE = {
    "finished": "2020-11-19T10:00:00+00:00",
    "revision": "abc",
    "packages": {"torch": "2.0"},
    "seeds": {"tdips": [0]},
    "device": "cpu",
    "system": "Linux x86_64",
}


def test_files_have_their_hashes_and_belong_to_the_run(tmp_path):
    (tmp_path / "adversarial").mkdir()
    attacked = tmp_path / "adversarial/1-of-1.safetensors"
    attacked.write_bytes(b"images")
    (tmp_path / "provenance.json").write_text("{}")
    files = [attacked, tmp_path / "provenance.json"]
    crate.write(tmp_path, files, PROVENANCE)
    found = ROCrate(tmp_path)
    assert found.datePublished.isoformat() == PROVENANCE["finished"]
    entity = found.get("adversarial/1-of-1.safetensors")
    assert entity["sha256"] == sha256(b"images").hexdigest() and entity["contentSize"] == "6"
    assert "attacked images" in entity["description"]
    run = found.get("#run")
    assert {result.id for result in run["result"]} == {entity.id, "provenance.json"}
    assert run["instrument"].id == "#workflow" and run["instrument"]["version"] == "abc"
    papers = {paper.id for paper in run["instrument"]["citation"]}
    assert papers == {"https://doi.org/10.3390/electronics9111957", "#funn"}
    assert attacked.read_bytes() == b"images"  # where it was, as it was


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        crate.write(tmp_path, [tmp_path / "tables/x.csv"], PROVENANCE)
    (tmp_path / "results").mkdir()
    (tmp_path / "outside.csv").touch()
    with pytest.raises(ValueError, match="outside.csv"):
        crate.write(tmp_path / "results", [tmp_path / "outside.csv"], PROVENANCE)


def test_the_revision_is_that_of_the_checkout(root, tmp_path, monkeypatch):
    """And whether something in it is not committed."""
    assert root == provenance.ROOT and (provenance.ROOT / "Snakefile").exists()

    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "one")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    record = provenance.collect({"experiments": {"mine": {"seeds": [3]}}})
    assert record["revision"] == git("rev-parse", "HEAD") and not record["uncommitted_changes"]
    assert record["seeds"] == {"mine": [3]}
    (tmp_path / "a").write_text("2")
    assert provenance.collect({"experiments": {}})["uncommitted_changes"]
