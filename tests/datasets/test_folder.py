"""A folder of pictures: what is read, how it becomes square, what is refused and how."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms._presets import ImageClassification

from tandem_defense.datasets.folder import Folder
from tandem_defense.files.base import FileError
from tandem_defense.files.images import write_images
from tandem_defense.pipeline import schema

TARGET = "tandem_defense.datasets.folder:Folder"


def save(path, width=20, height=20, mode="RGB", seed=0, **options):
    """A picture of smooth random colors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), np.uint8)
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    image.save(path, **options)
    return path


@pytest.fixture
def pets(tmp_path):
    """Five cats and five dogs."""
    for label, name in enumerate(("dog", "cat")):
        for i in range(5):
            save(tmp_path / name / f"{i}.png", seed=10 * label + i)
    return tmp_path


def test_class_folders(pets):
    found = Folder(folder=str(pets), size=16, test=6, train=4).load()
    test, train = found["test"], found["train"]
    assert test.images.shape == (6, 16, 16, 3) and test.images.dtype == np.uint8
    assert len(train) == 4 and test.labels.dtype == train.labels.dtype == np.int64
    assert test.classes == train.classes == ("cat", "dog")
    assert set(test.ids) | set(train.ids) == {f"{c}/{i}" for c in test.classes for i in range(5)}
    for split in found.values():
        assert [split.classes[label] for label in split.labels] == [i[:3] for i in split.ids]


def test_the_draw_is_reproducible_and_depends_on_its_seed(pets):
    ids = lambda **settings: Folder(folder=str(pets), size=8, **settings).load()["test"].ids  # noqa: E731
    assert ids(test=5) == ids(test=5) == ids(test=5, train=5) == ids(test=8)[:5]
    assert ids(test=5) != ids(test=5, split_seed=1)
    before = ids(test=10)
    save(pets / "dog/new.png")
    assert [name for name in ids(test=11) if name != "dog/new"] == list(before)


def test_without_train_images_train_is_test_s(pets):
    found = Folder(folder=str(pets), size=8, test=3).load()
    assert found["train"] is found["test"]


def test_what_is_no_picture_is_passed_over(pets):
    for name in ("cat/.DS_Store", "cat/._1.png", "cat/notes.txt", "README.md"):
        (pets / name).write_text("no picture")
    (pets / ".cache").mkdir()
    assert len(Folder(folder=str(pets), size=8, test=10).load()["test"]) == 10


def test_subfolders_train_and_test(tmp_path):
    for split, count in {"train": 4, "test": 2}.items():
        for name in ("a", "b"):
            for i in range(count):
                save(tmp_path / split / name / f"{i}.jpg", seed=i)
    save(tmp_path / "val/a/0.jpg")
    found = Folder(folder=str(tmp_path), size=8, test=4, train=8).load()
    assert all(name.startswith(split) for split in found for name in found[split].ids)
    assert found["test"].classes == ("a", "b")
    with pytest.raises(ValueError, match="found 4 pictures for test among 12, expected 5: lower"):
        Folder(folder=str(tmp_path), size=8, test=5).load()
    save(tmp_path / "test/c/0.jpg")
    # A classifier that is trained already learns nothing from them.
    assert Folder(folder=str(tmp_path), size=8, test=5, train=0).load()["test"].classes
    with pytest.raises(ValueError, match="c in test but not in train: .*add some, or remove"):
        Folder(folder=str(tmp_path), size=8, test=1, train=8).load()


def test_other_layouts_are_named(tmp_path):
    """Whole splits would be taken for classes."""
    save(tmp_path / "train/cat/1.png")
    save(tmp_path / "val/cat/1.png")
    with pytest.raises(FileError, match=r"train has folders in it\. Expected are folder/<class>/"):
        Folder(folder=str(tmp_path), test=1).load()


def test_ids_are_unique(tmp_path):
    """Only files that would share an id keep their endings in it."""
    for name in ("1.png", "1.jpg", "1.png.png", "2.tar.png"):
        save(tmp_path / "a" / name)
    found = Folder(folder=str(tmp_path), size=8, test=4).load()["test"]
    assert set(found.ids) == {"a/1.png", "a/1.jpg", "a/1.png.png", "a/2.tar"}
    write_images(tmp_path / "out", found)


# --- tables ---


def table(folder, text, name="labels.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return Folder(folder=str(folder), labels=name, size=8, test=2)


def test_a_table_of_labels(tmp_path):
    save(tmp_path / "x/1.png"), save(tmp_path / "2", format="PNG"), save(tmp_path / "3.png")
    found = table(tmp_path, "\ufefffile,label,by\n./x/1.png, zebra,A\n2,ape,B\n\n3.png,ape,C\n")
    images = Folder(**found.settings() | {"test": 3}).load()["test"]
    assert dict(zip(images.ids, images.labels.tolist())) == {"x/1": 1, "2": 0, "3": 0}
    assert images.classes == ("ape", "zebra")
    again = table(tmp_path, "label,file\nape,3.png\nape,2\nzebra,x/1.png\n")
    assert again.load()["test"].ids == images.ids[:2]  # whatever the order of its lines


def test_a_table_with_splits(tmp_path):
    lines = ["file,label,split"]
    for i in range(6):
        save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{'ab'[i % 2]},{'train' if i < 4 else 'test'}")
    settings = table(tmp_path, "\n".join(lines)).settings() | {"train": 3}
    found = Folder(**settings).load()
    assert set(found["test"].ids) == {"4", "5"} and set(found["train"].ids) < set("0123")
    assert Folder(**settings | {"train": 0}).load()["train"].ids == found["test"].ids
    with pytest.raises(ValueError, match="found 4 pictures for train among 6, expected 5"):
        Folder(**settings | {"train": 5}).load()


def test_class_numbers(tmp_path):
    """An ImageNet classifier's own numbering, although only two of its classes are there."""
    save(tmp_path / "a.png"), save(tmp_path / "b.png")
    numbers = table(tmp_path, "file,label\na.png,999\nb.png,7\n")
    with pytest.raises(ValueError, match=r"labels are numbers, e\.g\. 7; say in `classes`"):
        numbers.load()
    found = Folder(**numbers.settings() | {"classes": 1000}).load()["test"]
    assert dict(zip(found.ids, found.labels.tolist())) == {"a": 999, "b": 7}
    assert found.classes == tuple(map(str, range(1000)))
    with pytest.raises(ValueError, match="found the label '999', expected 0 to 998: correct it"):
        Folder(**numbers.settings() | {"classes": 999}).load()
    with pytest.raises(ValueError, match="found the label 'cat', expected 0 to 9"):
        named = table(tmp_path, "file,label\na.png,cat\nb.png,7\n")
        Folder(**named.settings() | {"classes": 10}).load()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("file;label\na.png;cat\n", "has the columns file;label, expected file and label"),
        ("", "has the columns none, expected file and label"),
        ("file,label\n", "has no labeled pictures"),
        ("file,label\na.png\n", "has no label in line 2"),
        ("file,label\na.png,a\n, b\n", "has no file in line 3"),
        ("file,label,split\na.png,a,val\n", "has the split 'val' in line 2, expected train or"),
        ("file,label\na.png,a\nb.png,a\n", "names 'b.png' in line 3, which is not there"),
        ("file,label\na.png,a\n./a.png,b\n", "names './a.png' again in line 3"),
        ("file,label\n../a.png,a\n", "names '../a.png' in line 2, which leads out of"),
        ("file,label\n/etc/passwd,a\n", "names '/etc/passwd' in line 2, which leads out of"),
        ("file,label\nx\\a.png,a\n", "which leads out of the folder"),
    ],
)
def test_a_wrong_table_is_explained(tmp_path, text, complaint):
    save(tmp_path / "a.png")
    with pytest.raises(FileError, match=re.escape(complaint) + ".*Correct the table: columns"):
        table(tmp_path, text).load()


def test_a_table_that_is_none(tmp_path):
    with pytest.raises(FileError, match=r"l\.csv cannot be read \(No such.*relative to `folder`"):
        Folder(folder=str(tmp_path), labels="l.csv", test=1).load()
    (tmp_path / "l.csv").write_bytes("file,label\nä.png,a".encode("latin-1"))
    with pytest.raises(FileError, match="l.csv is not a table in UTF-8 .*Correct the table"):
        Folder(folder=str(tmp_path), labels="l.csv", test=1).load()


# --- pictures ---


def one(tmp_path, **settings):
    """The one picture of a folder, (size, size, C)."""
    return Folder(folder=str(tmp_path), test=1, **settings).load()["test"].images[0]


@pytest.mark.parametrize(
    ("width", "height", "size", "resize"),
    [(500, 375, 224, None), (375, 501, 224, None), (90, 61, 32, 40), (20, 33, 64, 64)],
)
def test_pictures_are_what_torchvision_evaluates(tmp_path, width, height, size, resize):
    path = save(tmp_path / "a/1.png", width, height)
    found = one(tmp_path, size=size, resize=resize)
    preset = ImageClassification(
        crop_size=size, resize_size=resize or round(size / 0.875), mean=(0,) * 3, std=(1,) * 3
    )
    expected = preset(Image.open(path)).mul(255).round().to(torch.uint8).permute(1, 2, 0)
    assert np.array_equal(found, expected.numpy())
    if resize is None:
        assert preset.resize_size == [256]


@pytest.mark.parametrize("ending", ["png", "JPG", "jpeg", "webp", "tif", "bmp", "gif", "ppm"])
def test_formats(tmp_path, ending):
    path = save(tmp_path / f"a/1.{ending}", 16, 16, "P" if ending == "gif" else "RGB")
    found = one(tmp_path, size=16, resize=16)
    assert np.array_equal(found, np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGB"])
@pytest.mark.parametrize("color", [True, False])
def test_modes(tmp_path, mode, color):
    path = save(tmp_path / "a/1.tif", 16, 16, mode)
    found = one(tmp_path, size=16, resize=16, color=color)
    expected = np.asarray(Image.open(path).convert("RGB" if color else "L"))
    assert found.shape == (16, 16, 3 if color else 1)
    assert np.array_equal(found.squeeze(), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_exif_says(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a/1.png", 16, 16, exif=exif)
    stored = np.asarray(Image.open(path))
    turned = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(stored),
    }
    assert np.array_equal(one(tmp_path, size=16, resize=16), turned[orientation])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_put_on_white(tmp_path, mode):
    (tmp_path / "a").mkdir()
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:, 8:, 3] = 255  # black; the left half is transparent
    image = Image.fromarray(pixels)
    if mode == "P":
        image = Image.fromarray(np.asarray(image)[..., 3] // 255, "P")
        image.putpalette([9, 9, 9, 0, 0, 0])
        image.save(tmp_path / "a/1.png", transparency=0)
    else:
        image.convert(mode).save(tmp_path / "a/1.png")
    found = one(tmp_path, size=16, resize=16)
    assert (found[:, :8] == 255).all() and (found[:, 8:] == 0).all()


def test_more_than_8_bits(tmp_path):
    (tmp_path / "a").mkdir()
    path = tmp_path / "a/1.png"
    Image.fromarray(np.full((9, 9), 4000, np.uint16)).save(path)
    with pytest.raises(FileError, match=r"1\.png has gray values of more than 8 bits .*Scale them"):
        one(tmp_path, size=8)
    Image.fromarray(np.zeros((9, 9), np.float32)).save(tmp_path / "a/1.tif")
    path.unlink()
    with pytest.raises(FileError, match=r"1\.tif has gray values of more than 8 bits .*mode F"):
        one(tmp_path, size=8)


def test_unreadable_pictures_are_named(tmp_path):
    path = save(tmp_path / "a/1.png", 200, 200)
    whole = path.read_bytes()
    eps = io.BytesIO()
    Image.new("RGB", (9, 9)).save(eps, "EPS")  # Pillow gives it to Ghostscript
    altered = whole[:-60] + bytes([whole[-60] ^ 1]) + whole[-59:]
    for content in (b"", b"text", whole[: len(whole) // 2], altered, eps.getvalue()):
        path.write_bytes(content)
        with pytest.raises(FileError, match=r"a/1\.png is not a PNG or JPEG .*, or damaged .*Repl"):
            one(tmp_path, size=8)
    save(path.with_suffix(".jpg"), 200, 200)
    path.unlink()
    path = path.with_suffix(".jpg")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(FileError, match=r"a/1\.jpg is not a .*truncated.*Replace it, or delete it"):
        one(tmp_path, size=8)


# --- what else is refused ---


def test_folders_without_pictures_are_explained(pets):
    with pytest.raises(FileError, match="nowhere is not a folder. `folder` is a path from"):
        Folder(folder=str(pets / "nowhere"), test=1).load()
    with pytest.raises(
        FileError, match=r"cat has no labeled pictures\. Expected are folder/<class>/"
    ):
        Folder(folder=str(pets / "cat"), test=1).load()
    (pets / "emu").mkdir()
    (pets / "emu/1.heic").touch()
    with pytest.raises(
        FileError, match=r"emu has no picture, expected files that end in \.png.*Co"
    ):
        Folder(folder=str(pets), test=1).load()


def test_too_few_pictures(pets):
    with pytest.raises(ValueError, match="found 10 pictures for test among 10, expected 11: lower"):
        Folder(folder=str(pets), test=11).load()
    with pytest.raises(ValueError, match="found 2 pictures for train among 10, expected 3: lower"):
        Folder(folder=str(pets), test=8, train=3).load()


def test_settings():
    with pytest.raises(
        ValueError, match="resize: found 223 beside size 224, allowed is resize ≥ size: raise"
    ):
        Folder(folder="f", test=1, resize=223)
    with pytest.raises(ValueError, match="Folder: size: found 0, allowed is a whole number ≥ 1"):
        Folder(folder="f", test=1, size=0)
    found = schema.schema(TARGET)
    assert found["required"] == ["folder", "test"] and "seed" not in found["properties"]
    assert schema.constant(TARGET, "FILES") == ()
