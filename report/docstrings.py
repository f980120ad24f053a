"""Griffe's extension for mkdocs.yml: a docstring's lines ``name : what it is`` become a list."""

import re

import griffe

NAMED = re.compile(r"^([`\w][\w`, …]*) : ", re.MULTILINE)


class Named(griffe.Extension):
    """Marks the named lines of every docstring as a Markdown list."""

    def on_object(self, *, obj, **kwargs):
        """Rewrite one object's docstring."""
        if obj.docstring:
            lines = []
            for line in obj.docstring.value.splitlines():
                if (
                    NAMED.match(line)
                    and lines
                    and lines[-1]
                    and not lines[-1].startswith(("* ", " "))
                ):
                    lines.append("")
                lines.append(NAMED.sub(r"* **\1**: ", line))
            obj.docstring.value = "\n".join(lines)
