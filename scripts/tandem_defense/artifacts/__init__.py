"""Tables, figures and pages, one module per kind; they only read what experiments computed."""

from tandem_defense.extras import extra

with extra("pipeline"):
    import pandas  # noqa: F401
    import tabulate  # noqa: F401
