"""Packages that ``pip install tandem-defense`` alone does not bring: which extra has them."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Imports of packages that only the extra `name` installs.

    Raises ImportError that says how to install it where one of them is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        raise ImportError(
            f'this needs the package {package}: pip install "tandem-defense[{name}]"', name=package
        ) from error
