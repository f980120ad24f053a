"""The plain networks: their sizes and the weights that they start from; how fits are asked for."""

import pytest
import torch
from priors import photos
from torch import nn

from tandem_defense.restoration import reference
from tandem_defense.restoration.reference import FitSettings, Task, dip1, dip2


def test_default_widths_are_those_of_the_specification():
    """16, 32, 64, 128, 256, 256 and about 6.5 million parameters; nine weight layers in DIP₁."""
    assert dip2(3, 4).widths == (16, 32, 64, 128, 256, 256)
    assert 6.3e6 < sum(s.numel() for s in reference.shapes(dip2(3, 4))) < 6.7e6
    assert len(reference.shapes(dip1(norm="none"))) == 2 * 9
    assert len(reference.shapes(dip1())) == 2 * (9 + 6)  # six norms


@pytest.mark.parametrize("weights", ["torch", "he"])
@pytest.mark.parametrize("norm", ["instance", "affine"])
def test_reference_starts_from_the_distribution_that_was_asked_for(norm, weights):
    """torch: uniform ±1/√fan_in, weights and biases; he: weights √6 wider, no biases.

    z ~ U(0, 1); a normalization starts as the identity.
    """
    architecture = dip2(32, 8, norm, weights)
    parameters, z = reference.draw(architecture, Task(photos(1)[0], 0))
    network = reference.build(architecture)
    nn.utils.vector_to_parameters(parameters, network.parameters())
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            bound = layer.weight[0].numel() ** -0.5 * (6**0.5 if weights == "he" else 1)
            assert layer.weight.abs().max() <= bound
            assert layer.bias.abs().max() <= (0 if weights == "he" else bound)
            if layer.weight.numel() > 500:
                assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
        elif isinstance(layer, nn.InstanceNorm2d) and layer.affine:
            assert (layer.weight == 1).all() and (layer.bias == 0).all()
    assert 0 <= z.min() < 0.01 and 0.99 < z.max() <= 1 and z.shape == (32, 65, 72)


ASKED = {"readouts": (1, 20), "learning_rate": 1e-3, "smoothing": 0.9}


def test_fit_settings_are_taken_as_lists_too():
    settings = FitSettings(**ASKED | {"readouts": [1, 20], "smoothing": 0})
    assert settings.readouts == (1, 20) and settings.precision == "float32"
    assert settings.dtype == torch.float32
    assert FitSettings(**ASKED, precision="float64").dtype == torch.float64
    assert FitSettings(**ASKED, precision="bf16").dtype == torch.float32


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ({"readouts": ()}, r"readouts: found \(\), allowed is a list of at least 1"),
        ({"readouts": (0, 5)}, r"readouts.0: found 0, allowed is a whole number ≥ 1"),
        ({"readouts": (5, 2)}, r"readouts: found \(5, 2\), allowed are ascending numbers"),
        ({"readouts": (5, 5)}, r"readouts: found \(5, 5\), allowed are ascending numbers"),
        ({"learning_rate": 0.0}, r"learning_rate: found 0.0, allowed is a number > 0"),
        ({"smoothing": 1.0}, r"smoothing: found 1.0, allowed is a number ≥ 0 and < 1"),
        ({"smoothing": -0.1}, r"smoothing: found -0.1, allowed is a number ≥ 0 and < 1"),
        ({"precision": "fp16"}, "found 'fp16', allowed is one of float32, tf32, bf16, float64"),
    ],
)
def test_wrong_fit_settings_name_what_is_allowed(setting, why):
    with pytest.raises(ValueError, match=why):
        FitSettings(**ASKED | setting)
