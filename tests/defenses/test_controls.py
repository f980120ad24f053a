"""The controls are SciPy's blur and Pillow's JPEG."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import check_settings
from scipy.ndimage import uniform_filter
from trainings import random, smooth

from tandem_defense.defenses.controls import JPEG, AverageBlur
from tandem_defense.defenses.related import RandomResizePad, TensorShield, TotalVariation


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_blur_is_scipys(kernel):
    images = random(2, 3, 9, 12)
    size = (1, 1, kernel, kernel)
    expected = uniform_filter(images.double().numpy(), size, mode="mirror")
    assert np.allclose(AverageBlur(kernel=kernel)(images), expected, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(channels):
    images = smooth(2, channels, 21)
    result = JPEG(quality=60)(images)
    for image, back in zip(images, result, strict=True):
        pixels = (image * 255).round().byte().permute(1, 2, 0).squeeze().numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=60)
        expected = np.asarray(Image.open(file), "float32").reshape(21, 21, channels) / 255
        assert np.array_equal(back.permute(1, 2, 0), expected)
    assert result.shape == images.shape
    assert JPEG()(images.double()).dtype == torch.float64
    low = (JPEG(quality=5)(images) - images).abs().mean()
    assert low > (JPEG(quality=95)(images) - images).abs().mean() > 0


def test_wrong_images():
    with pytest.raises(ValueError, match="use larger images or a kernel below 9"):
        AverageBlur(kernel=9)(random(1, 1, 4, 8))
    with pytest.raises(ValueError, match="1 or 3 channels"):
        JPEG()(random(1, 4, 8, 8))


@pytest.mark.parametrize(
    "defense",
    [JPEG(), AverageBlur(), RandomResizePad(), TensorShield(ranks=(4, 4)), TotalVariation()],
    ids=lambda defense: type(defense).__name__,
)
def test_wrong_input_does_not_become_a_plausible_image(defense):
    images = random(2, 3, 16, 16)
    with pytest.raises(ValueError, match="divide 8-bit images by 255"):
        defense((images * 255).byte())
    with pytest.raises(ValueError, match=r"shape \(3, 16, 16\), expected \(B, C, H, W\)"):
        defense(images[0])
    images[1, 0, 2, 3] = torch.nan
    if isinstance(defense, AverageBlur | RandomResizePad):  # there NaN stays to be seen
        assert defense(images).isnan().any()
    else:
        with pytest.raises(ValueError, match="NaN or infinity"):
            defense(images)


@pytest.mark.parametrize(
    ("cls", "wrong"),
    [
        (AverageBlur, {"kernel": 4}),
        (AverageBlur, {"kernel": -1}),
        (AverageBlur, {"kernel": 3.0}),
        (JPEG, {"quality": 101}),
        (JPEG, {"quality": 0}),
        (JPEG, {"quality": "high"}),
    ],
)
def test_wrong_settings(cls, wrong):
    check_settings(cls, wrong)
