"""Unsupervised adversarial defenses: t-DIPs, FUNN, and what they are held against."""

__version__ = "0.1.0"
