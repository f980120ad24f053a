"""Two threads for every test here."""

from priors import two_threads  # noqa: F401
