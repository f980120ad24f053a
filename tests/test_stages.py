"""Pieces of the data's way that no other test runs alone."""

import csv
import hashlib

import pytest

from tandem_defense.seeds import derive_seed
from tandem_defense.stages import download, models


@pytest.mark.parametrize(("images", "chunks"), [(10, 3), (3, 3), (1000, 8), (1, 1)])
def test_chunks_cover_every_image_once(images, chunks):
    items = [f"{i}-of-{chunks}" for i in range(1, chunks + 1)]
    found = [list(range(images))[models.chunk_positions(item, images)] for item in items]
    assert sum(found, []) == list(range(images))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_seeds_are_those_of_the_run_and_the_image():
    assert derive_seed(0, "a") == derive_seed(0, "a")
    assert len({derive_seed(s, n) for s in (0, 1) for n in ("a", "b", "ab")}) == 6
    assert derive_seed(0, "a", "b") != derive_seed(0, "ab")
    assert 0 <= derive_seed(5, "x") < 2**63


def test_a_downloaded_image_is_compared_with_the_manifest(tmp_path):
    (tmp_path / "a.png").write_bytes(b"right")
    manifest = tmp_path / "manifest.csv"
    row = {"image_id": "a", "sha256": hashlib.sha256(b"right").hexdigest(), "bytes": 5}
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)
    download.check(tmp_path, str(manifest))
    (tmp_path / "a.png").write_bytes(b"wrong")
    with pytest.raises(ValueError, match="a.png differs from the manifest"):
        download.check(tmp_path, str(manifest))
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match="a.png is missing"):
        download.check(tmp_path, str(manifest))


def test_the_shipped_manifest_is_that_of_the_real_images(root):
    shared = root.parent / "shared/data/nips2017dev"
    if not shared.is_dir():
        pytest.skip("the real DEV images are not beside this checkout")
    with (root / "resources/nips2017dev.csv").open() as file:
        rows = {row["image_id"]: row["sha256"] for row in csv.DictReader(file)}
    assert len(rows) == 1000
    for path in sorted((shared / "images").glob("*.png"))[:20]:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == rows[path.stem]
