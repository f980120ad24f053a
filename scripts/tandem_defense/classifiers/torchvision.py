"""torchvision's architectures, with their own ImageNet weights or trained by the pipeline."""

import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file
from torch import Tensor

from tandem_defense.classifiers.fitting import Trainable
from tandem_defense.settings import Count, Literal

# Mean and standard deviation per channel that the images are normalized with.
NORMALIZATION = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
# Where the last maps before global average pooling leave the network, and the layer after it.
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
    normalization : ``imagenet``, ``half`` (±1) or ``none``

    Raises ValueError for an architecture that torchvision does not have.
    """

    # The names in the manifest of what :meth:`read_checkpoint` takes.
    CHECKPOINT = ("torchvision/{architecture}-{weights}.pth",)

    def __init__(
        self,
        *,
        architecture: str,
        classes: Count = 1000,
        weights: str | None = None,
        input_size: int = 0,
        normalization: Literal["imagenet", "half", "none"] = "imagenet",
    ):
        super().__init__()
        known = torchvision.models.list_models(torchvision.models)
        if architecture not in known:
            raise ValueError(
                f"architecture {architecture!r} is not torchvision's; it has {', '.join(known)}"
            )
        self.architecture, self.classes, self.input_size = architecture, classes, input_size
        mean, std = torch.tensor(NORMALIZATION[normalization]).view(2, 1, 3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.build()

    def build(self) -> None:
        """Make the layers."""
        # Inception's released weights have the auxiliary head; eval mode never runs it.
        extra = {"init_weights": False} if self.architecture == "inception_v3" else {}
        self.net = torchvision.models.get_model(
            self.architecture, weights=None, num_classes=self.classes, **extra
        )

    def _prepare(self, images: Tensor) -> Tensor:
        if self.input_size and tuple(images.shape[2:]) != (self.input_size,) * 2:
            images = F.interpolate(images, (self.input_size,) * 2, mode="bilinear", antialias=True)
        return (images - self.mean) / self.std

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
        found = []
        layer = self.net.get_submodule(self._last()[0])
        hook = layer.register_forward_hook(lambda module, inputs, output: found.append(output))
        try:
            self.net(self._prepare(images))
        finally:
            hook.remove()
        return F.relu(found[0])  # DenseNet's features end before their ReLU; the others' are ≥ 0

    def head(self, maps: Tensor) -> Tensor:
        """Global average pooling and the linear layer."""
        return self.net.get_submodule(self._last()[1])(maps.mean((2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (B, classes)."""
        logits = self.net(self._prepare(images))
        return logits if isinstance(logits, Tensor) else logits.logits  # Inception while training

    def load_checkpoint(self, state: dict[str, Tensor]) -> None:
        """Take a checkpoint of torchvision's own names, e.g. ``conv1.weight``."""
        self.net.load_state_dict(state)

    def read_checkpoint(self, path: str) -> None:
        """Take a checkpoint file of any floating-point type; no code in it runs.

        Raises ValueError where its tensors are not this architecture's.
        """
        if path.endswith(".safetensors"):
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        try:
            self.load_checkpoint(state)
        except RuntimeError as error:
            raise ValueError(
                f"{path} does not hold {self.architecture} with {self.classes} classes: {error}"
            ) from None
