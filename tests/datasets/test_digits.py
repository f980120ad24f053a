"""The digits that ship with scikit-learn."""

from tandem_defense.datasets.digits import Digits


def test_digits():
    found = Digits(test=400).load()
    assert found["test"].images.shape == (400, 28, 28, 1) and len(found["train"]) == 1397
    assert not set(found["test"].ids) & set(found["train"].ids)
    assert found["train"].images.max() == 255
