"""Reading the files that make up a configuration, and refusing what would be lost silently.

A key that stands twice in a mapping replaces what stands under the first, and Snakemake merges
several files entry by entry.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tandem_defense.extras import extra

with extra("pipeline"):
    import yaml

# What a configuration consists of. Two files that both have one of these are two configurations.
CONTENT = ("experiments", "tables", "figures")
EVALUATED = "__use_yte__"  # Snakemake evaluates Python in the values of a YAML file with this key


class FilesError(ValueError):
    """A configuration's files cannot be used; the message says which, where, and what mends it."""


def read(path: str | Path) -> dict:
    """The mapping in a YAML (or JSON) file.

    Raises FilesError for a file that is not YAML, has no keys at its top level, or in which a key
    stands twice in one mapping.
    """
    try:
        loader = yaml.SafeLoader(Path(path).read_text(encoding="utf-8"))
        try:
            node = loader.get_single_node()
            twice = list(_repeated(node, "", set())) if node else []
            content = loader.construct_document(node) if node else {}
        finally:
            loader.dispose()
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FilesError(f"{path} is not YAML: {error}") from None
    except OSError as error:
        raise FilesError(f"{path} cannot be read: {error.strerror}") from None
    if twice:
        lines = "\n".join(f"  {line}" for line in twice)
        raise FilesError(f"{path} says the same key twice, of which only the last counts:\n{lines}")
    if not isinstance(content, dict):
        found = type(content).__name__
        raise FilesError(f"{path}: found a {found} at its top level, allowed are keys with values")
    return content


def _repeated(node: yaml.Node, path: str, seen: set[int]) -> Iterator[str]:
    """The keys that stand twice in a mapping, in and below `node`."""
    if id(node) in seen:  # an anchor's content
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            yield from _repeated(item, f"{path}.{i}", seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            place = f"{path}.{name}".lstrip(".")
            # `<<` takes in another mapping; there may be several.
            if (key.tag, name) in lines and not key.tag.endswith(":merge"):
                first = lines[key.tag, name]
                yield f"{place}: found in line {first} and again in line {line}; remove one"
            lines[key.tag, name] = line
            yield from _repeated(value, place, seen)


def check(own: str | Path, given: Sequence[str | Path], replaces: bool) -> None:
    """Raise FilesError unless the files make one configuration that is what it looks like.

    own : the workflow's own file in the working directory, which may be missing
    given : the files after --configfile
    replaces : whether these replace `own` (--replace-workflow-config)
    """
    contents = {Path(path).resolve(): read(path) for path in given}
    if Path(own).exists():
        content = read(own)
        if EVALUATED in content:
            raise FilesError(
                f"{own} has the key {EVALUATED}, with which Snakemake would run its values as"
                " Python: remove the key (SECURITY.md)"
            )
        if not (given and replaces):
            contents[Path(own).resolve()] = content
    for key in CONTENT:
        files = [str(path) for path, content in contents.items() if key in content]
        if len(files) > 1:
            raise FilesError(
                f"{key}: found in {' and in '.join(files)}, allowed is one file, because Snakemake"
                " would merge them entry by entry. Put a configuration of its own as config.yaml"
                " into a folder of its own and run `snakemake --directory FOLDER`; change single"
                " values by `--config KEY=VALUE` (docs/running.md)"
            )
