"""torchvision's architectures, with their own ImageNet weights or trained by the pipeline."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from tandem_defense.classifiers.checkpoints import load_weights
from tandem_defense.classifiers.fitting import Trainable
from tandem_defense.classifiers.inputs import NORMALIZATION, Prepare
from tandem_defense.extras import extra
from tandem_defense.settings import Count, Size

with extra("pipeline"):
    import torchvision

# Where the last features before global average pooling leave the network, and the layer after it.
LAST_MAPS = {
    "ResNet": ("layer4", "fc"),
    "Inception3": ("Mixed_7c", "fc"),
    "DenseNet": ("features", "classifier"),
    "ShuffleNetV2": ("conv5", "fc"),
}


class Torchvision(Trainable):
    """Any of torchvision's classification networks.

    architecture : torchvision's name, e.g. ``resnet50``
    classes : number of classes (1000 with `weights`)
    weights : torchvision's name of the checkpoint, e.g. ``IMAGENET1K_V1``; the path of a
        checkpoint of your own (.pth or .safetensors, with torchvision's names); none to train here.
        Nothing is loaded by the constructor: the rule `convert_weights` stores the checkpoint.
    input_size : images are resized to this side first (bilinear), or 0 to take them as they are
    normalization : ``imagenet``, ``half`` (±1) or ``none``. Of ImageNet's, inception_v3 and
        googlenet with `weights` make ±1, on which torchvision's were trained

    Raises ValueError for an architecture that torchvision does not have.
    """

    # The names in the manifest of what :meth:`read_checkpoint` takes.
    CHECKPOINT = ("torchvision/{architecture}-{weights}.pth",)
    RELEASED = ("classes",)
    ARCHITECTURES = "torchvision"
    MAPS = r"resn|wide_resnet|inception_v3|densenet|shufflenet"

    architecture: str
    classes: Count = 1000
    weights: str | None = None
    input_size: Size = 0
    normalization: Literal["imagenet", "half", "none"] = "imagenet"

    def build(self) -> None:
        """Make the layers and what prepares their input."""
        known = torchvision.models.list_models(torchvision.models)
        if self.architecture not in known:
            raise ValueError(
                f"architecture {self.architecture!r} is not torchvision's;"
                f" it has {', '.join(known)}"
            )
        self.prepare = Prepare(*NORMALIZATION[self.normalization], self.input_size)
        extra = {}
        if self.architecture in ("inception_v3", "googlenet"):
            # As torchvision does with its weights: they have the auxiliary heads, which eval mode
            # never runs, and were trained on ±1, which the network makes of ImageNet's input.
            released = self.weights is not None
            extra = {"init_weights": not released, "aux_logits": released}
            extra["transform_input"] = released and self.normalization == "imagenet"
        self.net = torchvision.models.get_model(
            self.architecture, weights=None, num_classes=self.classes, **extra
        )

    def _last(self) -> tuple[str, str]:
        family = type(self.net).__name__
        if family not in LAST_MAPS:
            raise ValueError(
                f"no feature maps known for {self.architecture} (a {family}); class activation"
                f" maps and HGD's feature guidance need one of {', '.join(LAST_MAPS)}"
            )
        return LAST_MAPS[family]

    def maps(self, images: Tensor) -> Tensor:
        """Last feature maps before global average pooling, (B, F, h, w)."""
        outputs = []
        layer = self.net.get_submodule(self._last()[0])
        hook = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        try:
            self.net(self.prepare(images))
        finally:
            hook.remove()
        # DenseNet's features end before their ReLU; the others' are ≥ 0.
        return F.relu(outputs[0])

    def head(self, maps: Tensor) -> Tensor:
        """Global average pooling and the linear layer."""
        return self.net.get_submodule(self._last()[1])(maps.mean((2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (B, classes)."""
        logits = self.net(self.prepare(images))
        return logits if isinstance(logits, Tensor) else logits.logits  # with auxiliary heads

    def read_checkpoint(self, path: str) -> None:
        """Take a checkpoint file of any floating-point type; no code in it runs.

        Raises FileError where it is not this architecture's.
        """
        load_weights(self.net, path, f"{self.architecture} with {self.classes} classes")
