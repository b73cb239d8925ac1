"""Data files and labels as Ultralytics reads them; what it would drop with a warning is one clear error."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from trt_yolo.errors import InputError
from trt_yolo.evaluation.dataset import dataset_from_yaml, label_path, labels_of, labels_of_all

NAMES = {0: "cat", 1: "dog", 2: "owl"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """images/val/{b.jpg, a.PNG, deep/c.webp, notes.txt, .hidden.jpg}, more/d.jpg, lists, empty/"""
    folder = Path(os.path.realpath(tmp_path))
    files = ("images/val/b.jpg", "images/val/a.PNG", "images/val/deep/c.webp", "images/val/notes.txt",
             "images/val/.hidden.jpg", "more/d.jpg", "empty/notes.txt")  # fmt: skip
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "list.txt").write_text("\ufeff./images/val/b.jpg\n\nmore/d.jpg\r\nimages/val/notes.txt\n")
    (folder / "absolute.txt").write_text(f"{folder}/more/d.jpg\n")
    return folder


def _data(folder: Path, **entries: object) -> Path:
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump({"names": NAMES, **entries}))
    return path


@pytest.mark.parametrize(
    ("entries", "wanted"),
    [
        pytest.param(
            {"val": "images/val"},
            ["images/val/a.PNG", "images/val/b.jpg", "images/val/deep/c.webp"],
            id="folder-and-below",
        ),
        pytest.param({"path": "images", "val": "val/deep"}, ["images/val/deep/c.webp"], id="path"),
        pytest.param({"path": ".", "val": "more"}, ["more/d.jpg"], id="path-is-a-dot"),
        pytest.param({"path": None, "val": "more"}, ["more/d.jpg"], id="path-without-value"),
        pytest.param({"val": "list.txt"}, ["images/val/b.jpg", "more/d.jpg"], id="list-file"),
        pytest.param({"val": "absolute.txt"}, ["more/d.jpg"], id="list-of-absolute-paths"),
        pytest.param({"val": ["more", "images/val/deep"]}, ["images/val/deep/c.webp", "more/d.jpg"], id="two"),
        pytest.param({"val": ["more", "list.txt"]}, ["images/val/b.jpg", "more/d.jpg", "more/d.jpg"], id="mixed"),
        pytest.param({"val": "../more"}, ["more/d.jpg"], id="roboflow"),
        pytest.param({"val": "more", "train": "gone", "nc": 3}, ["more/d.jpg"], id="other-splits-do-not-matter"),
    ],
)  # fmt: skip
def test_images_of_a_split(folder: Path, entries: dict[str, object], wanted: list[str]) -> None:
    dataset = dataset_from_yaml(_data(folder, **entries), split="val")
    assert dataset.images == [folder / name for name in wanted]
    assert dataset.names == NAMES


def test_an_absolute_path_and_another_split(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = _data(tmp_path_factory.mktemp("elsewhere"), path=str(folder), test="more", val="empty")
    assert dataset_from_yaml(elsewhere, split="test").images == [folder / "more" / "d.jpg"]


def test_a_relative_data_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _data(folder, val="more")
    monkeypatch.chdir(folder)
    assert dataset_from_yaml(Path("data.yaml"), split="val").images == [folder / "more" / "d.jpg"]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["cat", "dog"], {0: "cat", 1: "dog"}),
        ({1: "dog", 0: "cat"}, {0: "cat", 1: "dog"}),
        ([7, True], {0: "7", 1: "True"}),
    ],
)
def test_names(folder: Path, names: object, wanted: dict[int, str]) -> None:
    dataset = dataset_from_yaml(_data(folder, names=names, val="more"), split="val")
    assert dataset.names == wanted
    assert list(dataset.names) == [0, 1]


@pytest.mark.parametrize(
    ("entries", "parts"),
    [
        ({}, ["data.yaml has no split val", "there: none", "--split"]),
        ({"train": "more", "test": "more"}, ["no split val", "there: train, test"]),
        ({"val": None}, ["no split val"]),
        ({"val": []}, ["no split val"]),
        ({"val": 7}, ["no split val"]),
        ({"val": ["more", 7]}, ["no split val"]),
        ({"val": "gone"}, ["data.yaml names", "gone", "no such file or folder", "correct"]),
        ({"val": "\0"}, ["no such file or folder"]),
        ({"path": "gone", "val": "more"}, ["gone/more", "no such file or folder"]),
        ({"val": "more/d.jpg"}, ["d.jpg", "give a folder, or a .txt file"]),
        ({"val": "empty"}, ["the split val", "holds no images", ".jpg"]),
        ({"val": "more", "names": None}, ["no class names", "give them"]),
        ({"val": "more", "names": []}, ["no class names"]),
        ({"val": "more", "names": "cat"}, ["no class names"]),
        ({"val": "more", "names": {1: "cat", 2: "dog"}}, ["2 names", "class ids 0 to 1"]),
        ({"val": "more", "names": {"0": "cat"}}, ["1 names", "class ids 0 to 0"]),
        ({"val": "more", "nc": 4}, ["nc: 4", "3 names", "correct one"]),
        ({"val": "more", "nc": "many"}, ["nc: many", "3 names"]),
    ],
)
def test_a_data_file_that_does_not_do(folder: Path, entries: dict[str, object], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        dataset_from_yaml(_data(folder, **entries), split="val")
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"names: [a, b\nval: x\n", ["no YAML file (line 2)"]),
        (b"\tnames: 3", ["no YAML file (line 1)"]),
        (b"\xff\xfe\xfa", ["no YAML file", "give a data.yaml"]),
        (b"!!python/object/apply:os.system ['touch pwned']", ["no YAML file"]),
        (b"day: 2024-13-45", ["no YAML file"]),
        (b"", ["no data file", "names and val"]),
        (b"- names", ["no data file", "names and val"]),
        (b"[" * 5000, ["no YAML file"]),
    ],
)
def test_a_file_that_is_no_data_file(tmp_path: Path, content: bytes, parts: list[str]) -> None:
    path = tmp_path / "data.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        dataset_from_yaml(path, split="val")
    for part in parts:
        assert part in str(caught.value)


def test_no_data_file_at_all(folder: Path) -> None:
    for path, part in ((folder / "gone.yaml", "no such file"), (folder / "more", "is a folder")):
        with pytest.raises(InputError, match=part):
            dataset_from_yaml(path, split="val")
    with pytest.raises(InputError, match="--split 'validation' does not exist; give train, val or test"):
        dataset_from_yaml(_data(folder, val="more"), split="validation")


@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        ("/data/images/val/a.jpg", "/data/labels/val/a.txt"),
        ("/data/val/images/a.jpg", "/data/val/labels/a.txt"),
        ("/images/coco/images/a.b.jpg", "/images/coco/labels/a.b.txt"),
        ("/data/myimages/a.jpg", "/data/myimages/a.txt"),
        ("/data/val/images", "/data/val/images.txt"),
    ],
)
def test_label_path_is_that_of_ultralytics(image: str, wanted: str) -> None:
    assert label_path(Path(image)) == Path(wanted)
    utils = pytest.importorskip("ultralytics.data.utils")
    if Path(image).suffix:
        assert utils.img2label_paths([image]) == [wanted]


BOX = [0.5, 0.5, 0.2, 0.4]


@pytest.mark.parametrize(
    ("text", "class_id", "boxes"),
    [
        pytest.param("", [], [], id="empty"),
        pytest.param(" \n\n", [], [], id="blank-lines"),
        pytest.param("1 0.5 0.5 0.2 0.4", [1], [BOX], id="one"),
        pytest.param("\ufeff1.0 .5 5e-1 0.2 0.4\r\n", [1], [BOX], id="other-ways-to-write-it"),
        pytest.param("2 0.5 0.5 0.2 0.4\n0 0.5 0.5 0.2 0.4\n", [0, 2], [BOX, BOX], id="two"),
        pytest.param("1 0.5 0.5 0.2 0.4\n1 0.5 0.5 0.2 0.4\n", [1], [BOX], id="twice-the-same"),
        pytest.param("1 0.4 0.3 0.6 0.5 0.5 0.7", [1], [BOX], id="polygon"),
        pytest.param("1 0 0 1.005 1", [1], [[0, 0, 1.005, 1]], id="within-tolerance"),
    ],
)
def test_labels(tmp_path: Path, text: str, class_id: list[int], boxes: list[list[float]]) -> None:
    (tmp_path / "a.txt").write_text(text)
    labels = labels_of(tmp_path / "a.jpg", classes=3)
    assert labels is not None
    assert (labels.class_id.dtype, labels.boxes_cxcywhn.dtype) == (np.int64, np.float32)
    assert labels.boxes_cxcywhn.shape == (len(boxes), 4)
    np.testing.assert_array_equal(labels.class_id, class_id)
    np.testing.assert_allclose(labels.boxes_cxcywhn, np.array(boxes).reshape(-1, 4), atol=1e-7)


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ("3 0.5 0.5 0.2 0.4", ["there is no class 3", "3 classes", "0 to 2"]),
        ("-1 0.5 0.5 0.2 0.4", ["there is no class -1"]),
        ("0.5 0.5 0.5 0.2 0.4", ["there is no class 0.5"]),
        ("nan 0.5 0.5 0.2 0.4", ["there is no class nan"]),
        ("inf 0.5 0.5 0.2 0.4", ["there is no class inf"]),
        ("0 0.5 1.02 0.2 0.4", ["1.02 is not within 0 to 1", "fractions"]),
        ("0 320 240 100 100", ["320 is not within 0 to 1", "fractions"]),
        ("0 -0.02 0.5 0.2 0.4", ["-0.02 is not within"]),
        ("0 0.5 0.5 -0.005 0.4", ["-0.005 is not within"]),
        ("0 0.5 nan 0.2 0.4", ["nan is not within"]),
        ("0 0.1 0.1 0.2 0.2 0.3 7", ["7 is not within"]),
        ("0 0.5 0.5 0.2", ["4 fields", "class cx cy w h"]),
        ("0 0.5 0.5 0.2 0.4 0.9", ["6 fields"]),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", ["8 fields"]),
        ("cat 0.5 0.5 0.2 0.4", ["'cat 0.5 0.5 0.2 0.4' are no numbers"]),
    ],
)
def test_a_wrong_label_is_named_with_file_and_line(tmp_path: Path, row: str, parts: list[str]) -> None:
    (tmp_path / "a.txt").write_text(f"0 0.5 0.5 0.2 0.4\n\n{row}\n")
    with pytest.raises(InputError) as caught:
        labels_of(tmp_path / "a.jpg", classes=3)
    for part in (f"{tmp_path / 'a.txt'}, line 3", *parts):
        assert part in str(caught.value)


def test_labels_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"cannot read the labels .*a\.txt"):
        labels_of(tmp_path / "a.jpg", classes=3)


def test_an_image_without_label_file_has_no_objects_unless_none_has_one(folder: Path) -> None:
    dataset = dataset_from_yaml(_data(folder, val=["images/val", "more"]), split="val")
    assert labels_of(dataset.images[0], classes=3) is None
    with pytest.raises(InputError, match=r"none of the 4 images has labels: .*labels/val/a\.txt"):
        labels_of_all(dataset)
    (folder / "more" / "d.txt").touch()
    with pytest.raises(InputError, match="the labels of the 4 images have no object"):
        labels_of_all(dataset)
    (folder / "more" / "d.txt").write_text("1 0.5 0.5 0.2 0.4")
    assert [len(labels.class_id) for labels in labels_of_all(dataset)] == [0, 0, 0, 1]


def test_coco_labels_are_those_that_ultralytics_counts(shared: Path) -> None:
    dataset = dataset_from_yaml(shared / "coco" / "coco.yaml", split="val")
    labels = labels_of_all(dataset)
    assert (len(dataset.images), len(dataset.names)) == (64, 80)
    assert sum(len(one.class_id) for one in labels) == 440
