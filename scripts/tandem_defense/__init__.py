"""Unsupervised adversarial defenses: t-DIPs, FUNN, and what they are compared with."""

__version__ = "0.1.0"
__all__ = ["evaluate"]


def __getattr__(name: str) -> object:
    """`evaluate`, imported when it is asked for: it needs PyTorch and the extra `pipeline`."""
    if name == "evaluate":
        from tandem_defense.evaluation.evaluate import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
