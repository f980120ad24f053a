"""Unsupervised adversarial defenses: tandem deep image priors (t-DIPs), FUNN, and what they are held against."""

__version__ = "0.1.0"
