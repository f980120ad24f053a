"""A network of the user's own: any module of PyTorch with a checkpoint."""

from typing import Literal

from torch import Tensor, nn

from tandem_defense.classifiers.base import Classifier
from tandem_defense.classifiers.checkpoints import load_weights
from tandem_defense.classifiers.inputs import NORMALIZATION, Prepare
from tandem_defense.pipeline.classes import load_class
from tandem_defense.settings import Size


class Own(Classifier):
    """A module that takes images (B, C, H, W) and returns logits (B, K), trained elsewhere.

    Images (B, C, H, W) float in [0, 1]; the module gets them resized and normalized. For steps of
    your own give ``none`` and do them in the module.

    module : ``package.module:Class`` or ``file.py:Class``, a class or function that returns the
        module when called without arguments; a file is loaded by itself, its path is relative to
        the working directory
    weights : the path of its checkpoint (.pth or .safetensors). Nothing is loaded by the
        constructor: the rule `convert_weights` stores it.
    normalization : ``imagenet`` (makes three channels of a gray one), ``half`` (±1) or ``none``
    input_size : images are resized to this side first (bilinear), pixels; 0 takes them as they are

    Raises ValueError where `module` names nothing that can be called, or not a module of PyTorch.
    """

    # A name without a file's ending is looked up in the manifest as it is.
    CHECKPOINT = ("{weights}",)

    module: str
    weights: str
    normalization: Literal["imagenet", "half", "none"]
    input_size: Size = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        expected = "expected package.module:Class or file.py:Class"
        try:
            make = load_class(self.module)
        except (ImportError, OSError, AttributeError, ValueError) as error:
            raise ValueError(f"module: found {self.module!r}, {expected}: {error}") from error
        try:
            net = make()
        except TypeError as error:
            raise ValueError(
                f"module: found {self.module!r}, expected a class or function that can be called"
                f" without arguments ({error}): add a function to its file that makes the module"
            ) from error
        if not isinstance(net, nn.Module):
            raise ValueError(
                f"module: found {self.module!r}, which makes a {type(net).__name__}, expected a"
                " torch.nn.Module: name its class, or a function that returns one"
            )
        self.net = net
        self.prepare = Prepare(*NORMALIZATION[self.normalization], self.input_size)

    def maps(self, images: Tensor) -> Tensor:
        """Last feature maps before pooling, (B, F, h, w).

        Raises ValueError unless the module has methods `maps` and `head`.
        """
        if not (hasattr(self.net, "maps") and hasattr(self.net, "head")):
            raise ValueError(
                f"{self.module} has no methods maps and head, which class activation maps and HGD's"
                " feature guidance need: maps(images) gives the last feature maps (B, F, h, w),"
                " head(maps) the logits"
            )
        return self.net.maps(self.prepare(images))

    def head(self, maps: Tensor) -> Tensor:
        """Logits (B, K) from the feature maps, by the module's own `head`."""
        return self.net.head(maps)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (B, K). Raises ValueError where the module returns anything else."""
        logits = self.net(self.prepare(images))
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            shape = tuple(getattr(logits, "shape", ())) or type(logits).__name__
            raise ValueError(
                f"{self.module} returns {shape}, expected logits (B, K): name a module, or a"
                " function that wraps it, whose output is one tensor of them"
            )
        return logits

    def read_checkpoint(self, path: str) -> None:
        """Take a checkpoint file of any floating-point type; no code in it runs.

        Raises FileError where its tensors are not the module's.
        """
        load_weights(self.net, path, self.module)
