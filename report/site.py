"""Hooks of mkdocs.yml: the README is the site's first page, a finished run's gallery is in it.

Pictures outside docs/ are in it too. What else the pages link to outside docs/ is no part of the
site: there the link's text stands alone.
"""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
GALLERY = ROOT / "demo/results/gallery.html"
PICTURES = [*ROOT.glob("reproduction/measured/*.png"), *ROOT.glob("performance/*.png")]
LINK = re.compile(r"(!?)\[([^\]]+)\]\(([^)\s]+)\)")


def on_files(files, config):
    """Add the README, and the gallery where the demo has been run."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    if GALLERY.exists():
        readme += "\n[The gallery of the demo](gallery.html)\n"
        files.append(File.generated(config, "gallery.html", abs_src_path=str(GALLERY)))
    files.append(File.generated(config, "index.md", content=readme))
    for path in PICTURES:
        files.append(File.generated(config, f"pictures/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Keep the links that lead into the site, or to an address."""

    def kept(match):
        picture, text, target = match.groups()
        if picture and "://" not in target:
            return f"![{text}](pictures/{Path(target).name})"
        path = target.split("#")[0]
        inside = not path or "://" in path or files.get_file_from_path(path)
        return match[0] if inside else text

    return LINK.sub(kept, markdown)
