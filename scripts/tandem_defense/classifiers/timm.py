"""timm's architectures, with a checkpoint of the user's own or trained by the pipeline."""

from difflib import get_close_matches

from torch import Tensor

from tandem_defense.classifiers.checkpoints import load_weights
from tandem_defense.classifiers.fitting import Trainable
from tandem_defense.classifiers.inputs import Prepare
from tandem_defense.extras import extra
from tandem_defense.settings import Count, Size

with extra("timm"):
    import timm


class Timm(Trainable):
    """Any of timm's classification networks.

    Images (B, 3, H, W), or (B, 1, H, W) for gray, float in [0, 1] to logits (B, `classes`). They
    are normalized as timm's own evaluation of that architecture does, and resized to its training
    size, bilinear and whole: timm's may interpolate otherwise, crop, and take a larger size.

    architecture : timm's name, best with the tag of its weights, e.g. ``resnet50.a1_in1k``, because
        normalization and input size belong to the weights
    classes : number of classes
    weights : the path of a checkpoint of your own (.pth or .safetensors, with timm's names); none
        to train here. Nothing is loaded by the constructor: the rule `convert_weights` stores it.
    input_size : side of the network's input, pixels; images of another size are resized (bilinear);
        0 is timm's own for the architecture. Vision transformers are made for this size.

    Raises ImportError without timm, ValueError for an architecture that timm does not have.
    """

    # A name without a file's ending is looked up in the manifest as it is.
    CHECKPOINT = ("{weights}",)
    ARCHITECTURES = "timm"
    # Not those of vision transformers and of what is built like them; others say so in the job.
    MAPS = (
        r"(?!(test_)?vit_|test_vit|deit|beit|eva|flexivit|cait|xcit|convit|tnt|volo|swin_|swinv2_|"
        r"mixer_|gmixer|resmlp|gmlp|mambaout)"
    )

    architecture: str
    classes: Count = 1000
    weights: str | None = None
    input_size: Size = 0

    def build(self) -> None:
        """Make the layers."""
        known = timm.list_models() + timm.list_pretrained()
        if self.architecture not in known:
            similar = ", ".join(get_close_matches(self.architecture, known)) or "not there"
            raise ValueError(
                f"architecture: found {self.architecture!r}, which is not timm's; similar names are"
                f" {similar}. timm.list_models() and timm.list_pretrained() list all."
            )
        fixed = getattr(timm.get_pretrained_cfg(self.architecture), "fixed_input_size", False)
        size = {"img_size": self.input_size} if fixed and self.input_size else {}
        self.net = timm.create_model(self.architecture, num_classes=self.classes, **size)
        data = timm.data.resolve_data_config({}, model=self.net)
        side = self.input_size or data["input_size"][-1]
        self.prepare = Prepare(data["mean"], data["std"], side)

    def maps(self, images: Tensor) -> Tensor:
        """Last feature maps before pooling, (B, F, h, w).

        Convolutional networks have them. Raises ValueError for the others: vision transformers and
        MLP mixers (tokens), Swin and MambaOut (channels last).
        """
        maps = self.net.forward_features(self.prepare(images))
        if maps.ndim != 4 or maps.shape[1] != self.net.num_features:
            raise ValueError(
                f"{self.architecture} has features of the shape {tuple(maps.shape)}, expected"
                f" (B, {self.net.num_features}, h, w): class activation maps and HGD's feature"
                " guidance need a convolutional architecture"
            )
        return maps

    def head(self, maps: Tensor) -> Tensor:
        """Pooling and whatever follows."""
        return self.net.forward_head(maps)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (B, classes)."""
        return self.net(self.prepare(images))

    def read_checkpoint(self, path: str) -> None:
        """Take a checkpoint file of any floating-point type; no code in it runs.

        Raises FileError where its tensors are not this architecture's.
        """
        load_weights(self.net, path, f"{self.architecture} with {self.classes} classes")
