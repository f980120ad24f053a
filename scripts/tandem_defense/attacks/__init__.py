"""Adversarial attacks, batched and independent of batch mates: our own searches, and Foolbox's."""

from tandem_defense.extras import extra

with extra("pipeline"):
    import foolbox  # noqa: F401
