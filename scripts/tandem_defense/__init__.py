"""Unsupervised adversarial defenses: t-DIPs, FUNN, and what they are compared with."""

from importlib import import_module

__version__ = "0.1.0"
__all__ = ["evaluate"]


def __getattr__(name: str) -> object:
    """`evaluate`, imported when it is asked for: it needs PyTorch and the extra `pipeline`."""
    if name == "evaluate":
        # By its name, because an import statement would make every job depend on its code.
        return import_module("tandem_defense.evaluation.evaluate").evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
