"""What pages quote of the benchmarks' files: tables between two comments."""

from pathlib import Path

END = "<!-- end -->\n"


def _cut(page: Path, file: Path) -> tuple[str, str, str]:
    """The page before, between and after the comments of a benchmark's file."""
    begin = f"<!-- from performance/{file.name} -->\n"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    between, after = rest.split(END, 1)
    return before + begin, between, END + after


def quoted(page: Path, file: Path) -> str:
    """What stands on the page now."""
    return _cut(page, file)[1]


def quote(page: Path, file: Path, text: str) -> None:
    """Let `text` stand there."""
    before, _, after = _cut(page, file)
    page.write_text(before + text + after, encoding="utf-8")
