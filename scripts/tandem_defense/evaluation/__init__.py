"""From prediction rows to tables, figures and their uncertainty."""

from tandem_defense.extras import extra

with extra("pipeline"):
    import pandas  # noqa: F401
    import scipy  # noqa: F401
