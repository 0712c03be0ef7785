"""Which files of a folder are photos, and the ids that they get."""

from pathlib import Path

import pytest

from local.album import count_left_out, find_photos
from local.stack import LocalStackError


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["IMG_1.JPG", "b.png"], {"IMG_1": "IMG_1.JPG", "b": "b.png"}),
        (["IMG_1.heic", "IMG_1.JPG"], {"IMG_1": "IMG_1.JPG", "IMG_1.heic": "IMG_1.heic"}),
        (["x.tif", "x.png", "x.webp"], {"x": "x.webp", "x.png": "x.png", "x.tif": "x.tif"}),
        (["x.bmp", "x.gif"], {"x": "x.bmp", "x.gif": "x.gif"}),
        (["x.JPG", "x.jpg", "x.jpeg"], {"x": "x.JPG", "x.jpg": "x.jpg", "x.jpeg": "x.jpeg"}),
        (["a.jpg", "a.png.jpg"], {"a": "a.jpg", "a.png": "a.png.jpg"}),
        (["a.NEF", "a.JPG"], {"a": "a.JPG", "a.NEF": "a.NEF"}),
    ],
)
def test_of_files_with_one_name_one_has_it_as_its_id_and_the_others_keep_their_endings(
    tmp_path: Path, names: list[str], ids: dict[str, str]
) -> None:
    photos = find_photos(fill(tmp_path, *names))
    assert {image_id: path.name for image_id, path in photos.items()} == ids


def test_what_is_no_picture_is_left_out_and_counted(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "._a.jpg", "a.MOV", "b.mov", "a.xmp", "README", ".DS_Store").joinpath("more").mkdir()
    assert list(find_photos(tmp_path)) == ["a"]
    assert count_left_out(tmp_path) == {".mov": 2, ".xmp": 1, "README": 1, "hidden": 2}


def test_a_folder_without_a_photo_is_told(tmp_path: Path) -> None:
    with pytest.raises(LocalStackError, match=r"^There is no photo in "):
        find_photos(fill(tmp_path, "a.mov", "._a.jpg"))
    with pytest.raises(LocalStackError, match=r" is not a folder; name one with photos in it\.$"):
        find_photos(tmp_path / "none")
