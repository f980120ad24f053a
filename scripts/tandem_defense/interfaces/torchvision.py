"""A defense as one of torchvision's transforms, v2."""

import torch
from torch import Tensor, nn

from tandem_defense.extras import extra

with extra("pipeline"):
    from PIL.Image import Image
    from torchvision import tv_tensors
    from torchvision.transforms import v2
    from torchvision.transforms.v2 import functional

IMAGES = (tv_tensors.Image, tv_tensors.Video)
MODES = ("L", "LA", "RGB", "RGBA")  # of PIL images


class DefenseTransform(v2.Transform):
    """Defends PIL images, image tensors and videos, frame by frame; leaves labels and boxes alone.

    What comes out has the type, shape and range of what went in. It stands where images still have
    values of 0 to 255 or 0 to 1, before any normalization.

    defense : a defense for the images' number of channels and size

    Raises ValueError for PIL images of other modes than L, LA, RGB and RGBA.
    """

    def __init__(self, defense: nn.Module):
        super().__init__()
        self.defense = defense

    def transform(self, inpt: Image | Tensor, params: dict) -> Image | Tensor:
        """One picture, or a tensor (..., C, H, W)."""
        if isinstance(inpt, Image):
            if inpt.mode not in MODES:
                raise ValueError(
                    f"the picture has the mode {inpt.mode}, expected one of {', '.join(MODES)}:"
                    ' convert it with .convert("RGB")'
                )
            return functional.to_pil_image(
                self._defended(functional.pil_to_tensor(inpt)), inpt.mode
            )
        if isinstance(inpt, tv_tensors.TVTensor) and not isinstance(inpt, IMAGES):
            return inpt
        return tv_tensors.wrap(self._defended(inpt.as_subclass(Tensor)), like=inpt)

    def _defended(self, images: Tensor) -> Tensor:
        x = functional.to_dtype(images, torch.float32, scale=True)
        with torch.no_grad():
            defended = self.defense(x.reshape(-1, *x.shape[-3:])).reshape(x.shape)
        return functional.to_dtype(defended, images.dtype, scale=True)
