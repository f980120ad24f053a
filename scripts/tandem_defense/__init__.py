"""Unsupervised adversarial defenses: t-DIPs, FUNN, and what they are compared with."""

__version__ = "0.1.0"
