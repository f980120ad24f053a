"""The site: its pages are all in the navigation, and it is built without a warning."""

import shutil
import subprocess
import sys

import pytest
import yaml


def pages(entries) -> list[str]:
    """The files of a navigation."""
    nested = [
        pages(v) if isinstance(v, list) else [v]
        for e in entries
        if isinstance(e, dict)
        for v in e.values()
    ]
    return [e for e in entries if isinstance(e, str)] + [page for part in nested for page in part]


def test_every_page_is_in_the_navigation(root):
    named = pages(yaml.safe_load((root / "mkdocs.yml").read_text())["nav"])
    assert len(named) == len(set(named))
    assert set(named) - {"index.md"} == {path.name for path in (root / "docs").glob("*.md")}


def test_it_is_built_strictly(root, tmp_path):
    pytest.importorskip("mkdocstrings", reason="the site's tools are not installed (group docs)")
    for name in ("docs", "report", "reproduction", "performance", "scripts"):
        ignore = shutil.ignore_patterns("results", "__pycache__", ".snakemake")
        shutil.copytree(root / name, tmp_path / name, ignore=ignore)
    for name in ("README.md", "mkdocs.yml"):
        shutil.copy(root / name, tmp_path / name)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", "site"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site/api/index.html").read_text()
    assert "TandemDIP" in page and "first_iterations" in page
    assert "pictures/tandem.png" in (tmp_path / "site/reproduction/index.html").read_text()
