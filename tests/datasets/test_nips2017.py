"""The DEV images' folder, made here and, where it is at hand, the real one."""

import numpy as np
import pytest
from PIL import Image

from tandem_defense.datasets.nips2017 import NIPS2017


def test_nips2017_folder(tmp_path):
    (tmp_path / "images").mkdir()
    lines = ["ImageId,TrueLabel,Author,OriginalLandingURL,License"]
    license = "https://creativecommons.org/licenses/by/2.0/"
    for i in range(3):
        image = np.full((299, 299, 3), 40 * i, np.uint8)
        Image.fromarray(image).save(tmp_path / f"images/{i}.png")
        source = f"https://www.flickr.com/photos/p/{i}"
        lines.append(f"{i},{i + 1},Photographer {i},{source},{license}")
    (tmp_path / "images.csv").write_text("\n".join(lines))
    found = NIPS2017(folder=str(tmp_path), test=2, train=1).load()
    assert found["test"].labels.tolist() == [0, 1] and found["train"].ids == ("2",)
    credit = "Photographer 1, flickr.com/photos/p/1, creativecommons.org/licenses/by/2.0"
    assert found["test"].credits[1] == credit
    names = found["test"].classes
    assert len(names) == len(set(names)) == 1000
    assert names[0] == "tench" and names[254] == "pug" and names[999] == "toilet tissue"
    with pytest.raises(ValueError, match="lists 3 images.*ask for 4"):
        NIPS2017(folder=str(tmp_path), test=4).load()


def test_real_nips2017(root):
    folder = root.parent / "shared/data/nips2017dev"
    if not folder.is_dir():
        pytest.skip("the real DEV images are not beside this checkout")
    found = NIPS2017(folder=str(folder), test=4, train=2).load()
    assert found["test"].images.shape == (4, 299, 299, 3)
    assert found["test"].labels[0] == 305
