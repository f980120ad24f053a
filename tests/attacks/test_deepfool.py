"""DeepFool in L2 and L∞."""

import pytest
from attack_cases import equals_the_plain_loop, plain_loops

from tandem_defense.attacks.deepfool import DeepFoolL2, DeepFoolLinf


@pytest.mark.parametrize(("name", "net"), plain_loops(DeepFoolL2, DeepFoolLinf))
def test_equals_the_plain_loop(batch, name, net):
    equals_the_plain_loop(batch, name, net)


@pytest.mark.parametrize("cls", [DeepFoolL2, DeepFoolLinf])
def test_deepfool_hands_on_its_loss(batch, monkeypatch, cls):
    """Log-probabilities and logits differ alike, so only rounding could tell the two apart."""
    seen, original = [], cls.foolbox
    monkeypatch.setattr(
        cls, "foolbox", staticmethod(lambda **given: seen.append(given) or original(**given))
    )
    cls(steps=1, loss="crossentropy")(*batch(correct=1, misclassified=0))
    cls(steps=1)(*batch(correct=1, misclassified=0))
    assert [given["loss"] for given in seen] == ["crossentropy", "logits"]


@pytest.mark.parametrize("cls", [DeepFoolL2, DeepFoolLinf])
def test_one_candidate_is_too_few(cls):
    cls(candidates=2)
    with pytest.raises(ValueError, match=f"{cls.__name__}: candidates: found 1, allowed .* ≥ 2"):
        cls(candidates=1)
