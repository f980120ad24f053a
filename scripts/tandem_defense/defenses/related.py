"""Cheap defenses of the papers' related work, for comparison: controls."""

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor

from tandem_defense.defenses.base import Defense, names_of
from tandem_defense.extras import extra
from tandem_defense.seeds import derive_seed
from tandem_defense.settings import Count, Counts, Positive
from tandem_defense.training import check_finite, check_images

with extra("pipeline"):
    import tensorly
    from skimage.restoration import denoise_tv_chambolle
    from tensorly.decomposition import tucker


class RandomResizePad(Defense):
    """Random resizing and padding (Xie et al. 2018, section 3.2), at the images' own size.

    There an image of 299 pixels gets a random side below 331, is put on a black square of 331 at a
    random place, and the classifier takes that. A defense here keeps the shape, so that every
    classifier can stand behind it: the square is made smaller again by bilinear interpolation.

    larger : the square's side, as a multiple of the image's
    """

    larger: Positive = 331 / 299
    seed: int = 0

    CONDITIONS = {"larger >= 1": "the image is put on the square"}

    def forward(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Resized and padded images, shape and range as the input's; differentiable."""
        check_images(images, None)
        side = images.shape[2:]
        square = [max(n, round(self.larger * n)) for n in side]
        made = []
        for image, name in zip(images, names_of(images, ids), strict=True):
            source = torch.Generator().manual_seed(derive_seed(self.seed, "resize_pad", name))

            def draw(low: int, high: int, source=source) -> int:
                return int(torch.randint(low, high + 1, (), generator=source, device="cpu"))

            share = draw(0, square[0] - side[0]) / max(1, square[0] - side[0])
            size = [n + round(share * (m - n)) for n, m in zip(side, square, strict=True)]
            top, left = (draw(0, m - n) for n, m in zip(size, square, strict=True))
            x = functional.interpolate(image[None], size, mode="nearest")
            margins = (left, square[1] - size[1] - left, top, square[0] - size[0] - top)
            x = functional.pad(x, margins)
            made.append(functional.interpolate(x, side, mode="bilinear", antialias=True))
        return torch.cat(made) if made else images


class TensorShield(Defense):
    """The image as a tensor of low rank (TensorShield, Entezari and Papalexakis 2022).

    A Tucker decomposition of every image by itself, height × width × channels, truncated.

    ranks : of height and width; the channels keep theirs
    """

    ranks: Counts = (60, 60)

    CONDITIONS = {"len(ranks) == 2": "one for the height, one for the width"}

    @torch.no_grad()
    def forward(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Images of low rank, shape and range as the input's."""
        check_images(images, None)
        check_finite(images)
        made = []
        for image in images:
            ranks = [min(r, n) for r, n in zip(self.ranks, image.shape[1:], strict=True)]
            array = image.double().cpu().numpy()
            parts = tucker(array, rank=[len(image), *ranks], init="svd", n_iter_max=20)
            made.append(torch.from_numpy(tensorly.tucker_to_tensor(parts)).to(images))
        return torch.stack(made).clamp(0, 1) if made else images


class TotalVariation(Defense):
    """Total-variation denoising (Rudin et al. 1992; Guo et al. 2018), by Chambolle's algorithm.

    weight : of the variation; more is smoother
    steps : of the algorithm, at most
    """

    weight: Positive = 0.1
    steps: Count = 200

    @torch.no_grad()
    def forward(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Smoothed images, shape and range as the input's."""
        check_images(images, None)
        check_finite(images)
        made = [
            denoise_tv_chambolle(
                image.cpu().numpy(), weight=self.weight, max_num_iter=self.steps, channel_axis=0
            )
            for image in images
        ]
        made = [torch.from_numpy(x).to(images) for x in made]
        return torch.stack(made).clamp(0, 1) if made else images
