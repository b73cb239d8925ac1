"""The images of precision: who calibrates, who judges, and what is refused."""

from __future__ import annotations

import hashlib
import io
import logging
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from trt_yolo.demo.scenes import NAMES, scene
from trt_yolo.errors import InputError, TrtYoloError
from trt_yolo.evaluation.dataset import label_path
from trt_yolo.precision import images
from trt_yolo.precision.images import default_images, frames_of, images_from, images_sha256, spread

COCO_NAMES = {index: f"thing {index}" for index in range(80)} | {0: "person", 16: "dog", 79: "toothbrush"}
LABEL = "0 0.5 0.5 0.2 0.4\n"

MakeImages = Callable[..., Path]


def _jpeg(index: int) -> bytes:
    pixels = np.random.default_rng(index).integers(0, 256, (24, 32, 3), np.uint8)
    return bytes(cv2.imencode(".jpg", pixels)[1].tobytes())


@pytest.fixture
def make(tmp_path: Path) -> MakeImages:
    """`make(24)`: a folder of so many images, no two alike, each with a label file if `labels`."""

    def made(count: int, name: str = "images", *, labels: bool = False) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for index in range(count):
            path = folder / f"{index:04d}.jpg"
            path.write_bytes(_jpeg(index))
            if labels:
                _label(path)
        return folder

    return made


def _label(image: Path, text: str = LABEL) -> None:
    path = label_path(image)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _data_yaml(folder: Path, *, train: str, val: str, classes: int = 10) -> str:
    path = folder / "data.yaml"
    names = [str(index) for index in range(classes)]
    path.write_text(
        f"path: {folder}\n{train and f'train: {train}'}\n{val and f'val: {val}'}\nnames: {names}\n"
    )
    return str(path)


def _numbers(paths: list[Path]) -> list[int]:
    return [int(path.stem) for path in paths]


# Who calibrates and who judges


@pytest.mark.parametrize("count", [22, 24, 40])
def test_every_fourth_image_of_a_folder_judges(count: int, make: MakeImages) -> None:
    found = images_from(str(make(count)), NAMES)
    assert _numbers(found.held_out) == list(range(3, count, 4))
    assert sorted(_numbers(found.calibration + found.held_out)) == list(range(count))
    assert not set(found.calibration) & set(found.held_out)
    assert found.labels is None


def test_a_pattern_is_divided_too(make: MakeImages) -> None:
    folder = make(40)
    found = images_from(f"{folder}/00[0-2]*.jpg", NAMES)
    assert sorted(_numbers(found.calibration + found.held_out)) == list(range(30))


def test_a_data_file_has_both_splits(tmp_path: Path, make: MakeImages) -> None:
    make(20, "images/train", labels=True)
    make(8, "images/val", labels=True)
    found = images_from(_data_yaml(tmp_path, train="images/train", val="images/val"), NAMES)
    assert {path.parent.name for path in found.calibration} == {"train"}
    assert {path.parent.name for path in found.held_out} == {"val"}
    assert (len(found.calibration), len(found.held_out)) == (20, 8)
    assert found.labels is not None
    for labels in found.labels:
        assert labels.class_id.tolist() == [0]
        np.testing.assert_allclose(labels.boxes_cxcywhn, [[0.5, 0.5, 0.2, 0.4]])


@pytest.mark.parametrize("val", ["images/train", "[images/train, images/val]"])
def test_a_split_that_is_in_the_other_is_divided(val: str, tmp_path: Path, make: MakeImages) -> None:
    make(24, "images/train")
    make(8, "images/val")
    found = images_from(_data_yaml(tmp_path, train="images/train", val=val), NAMES)
    everything = 24 if val == "images/train" else 32
    assert len(found.calibration) + len(found.held_out) == everything
    assert len(found.held_out) == everything // 4
    assert not set(found.calibration) & set(found.held_out)


@pytest.mark.parametrize(
    ("labelled", "text", "counts"),
    [
        (0, LABEL, False),
        (2, LABEL, False),
        (3, LABEL, True),
        (6, LABEL, True),
        (6, "", False),
    ],
    ids=["none", "two of six", "half", "all", "no object"],
)
def test_labels_count_where_half_the_judges_have_them(
    labelled: int, text: str, counts: bool, make: MakeImages
) -> None:
    folder = make(24)
    for image in sorted(folder.iterdir())[3::4][:labelled]:
        _label(image, text)
    found = images_from(str(folder), NAMES)
    assert (found.labels is not None) == counts
    if found.labels is not None:
        assert [len(one.class_id) for one in found.labels] == [1] * labelled + [0] * (6 - labelled)


def test_labels_of_calibration_images_do_not_matter(make: MakeImages) -> None:
    folder = make(24)
    for index in (0, 1, 2, 4, 5):
        _label(folder / f"{index:04d}.jpg", "this is no label")
    assert images_from(str(folder), NAMES).labels is None


def test_large_sets_are_thinned_evenly(make: MakeImages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MOST_CALIBRATION", 16)
    monkeypatch.setattr(images, "MOST_HELD_OUT", 5)
    found = images_from(str(make(80)), NAMES)
    assert (len(found.calibration), len(found.held_out)) == (16, 5)
    for numbers, first, last in ((_numbers(found.calibration), 0, 78), (_numbers(found.held_out), 3, 79)):
        assert (numbers[0], numbers[-1]) == (first, last)
        steps = np.diff(numbers)
        assert steps.max() - steps.min() <= 4, numbers


@pytest.mark.parametrize(
    ("count", "most", "wanted"),
    [(0, 3, []), (3, 3, [0, 1, 2]), (3, 9, [0, 1, 2]), (9, 3, [0, 4, 8]), (9, 1, [0]), (100, 5, [0, 24, 49, 74, 99])],
)  # fmt: skip
def test_spread(count: int, most: int, wanted: list[int]) -> None:
    assert spread(range(count), most) == wanted


def test_frames_are_letterboxed_and_read_anew(make: MakeImages) -> None:
    folder = make(3)
    cv2.imwrite(str(folder / "0001.jpg"), np.full((16, 64, 3), 255, np.uint8))
    frames = frames_of(sorted(folder.iterdir()), (64, 96))
    first, second = list(frames()), list(frames())
    assert [frame.shape for frame in first] == [(64, 96, 3)] * 3
    np.testing.assert_array_equal(first, second)
    wide = first[1][:, 48, 0]
    assert (wide[32], wide[0], wide[63]) == (255, 114, 114), "white between letterbox bars"


# What is refused, and what is only warned of


@pytest.mark.parametrize(
    ("count", "parts"),
    [
        (0, ["holds no images", ".jpg"]),
        (1, ["gives 1 images", "at least 16"]),
        (3, ["gives 3 images", "at least 16", "data.yaml"]),
        (20, ["gives 15 images", "at least 16"]),
    ],
)
def test_too_few_images(count: int, parts: list[str], make: MakeImages) -> None:
    folder = make(count)
    with pytest.raises(InputError) as error:
        images_from(str(folder), NAMES)
    assert all(part in str(error.value) for part in (str(folder), *parts)), error.value


def _broken(folder: Path, numbers: range | list[int]) -> None:
    for index in numbers:
        path = folder / f"{index:04d}.jpg"
        path.write_bytes([b"", b"no image at all", _jpeg(index)[:200]][index % 3])


def test_only_unreadable_images(make: MakeImages) -> None:
    folder = make(40)
    _broken(folder, range(40))
    with pytest.raises(InputError, match=r"none of the 30 images of .*can be read \(.*/\d{4}\.jpg "):
        images_from(str(folder), NAMES)


def test_only_unreadable_judges(tmp_path: Path, make: MakeImages) -> None:
    make(20, "images/train")
    _broken(make(5, "images/val"), range(5))
    with pytest.raises(InputError, match="none of the 5 images"):
        images_from(_data_yaml(tmp_path, train="images/train", val="images/val"), NAMES)


def test_some_unreadable_images_are_warned_of(make: MakeImages, caplog: pytest.LogCaptureFixture) -> None:
    folder = make(40)
    _broken(folder, [0, 3, 4, 5])
    found = images_from(str(folder), NAMES)
    assert (len(found.calibration), len(found.held_out)) == (27, 9)
    left_out = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(left_out) == 4
    for name in ("0000.jpg", "0003.jpg", "0004.jpg", "0005.jpg"):
        assert sum(name in line for line in left_out) == 1
    assert not {"0000", "0003", "0004", "0005"} & {path.stem for path in found.calibration + found.held_out}


def test_too_few_of_the_readable(make: MakeImages) -> None:
    folder = make(24)
    _broken(folder, [0, 1, 2])
    with pytest.raises(InputError, match="gives 15 images"):
        images_from(str(folder), NAMES)


@pytest.mark.parametrize("data", ["missing", "missing.yaml", "*.gif", "x" * 300, "missing/*.jpg"])
def test_what_does_not_exist(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        images_from(data, NAMES)
    assert data in str(error.value)


@pytest.mark.parametrize(
    ("train", "val", "classes", "message"),
    [
        ("images/train", "images/val", 11, "has 11 classes and the model has 10"),
        ("images/train", "images/val", 80, "has 80 classes and the model has 10"),
        ("", "images/val", 10, "no split train"),
        ("images/train", "", 10, "no split val"),
        ("images/nothing", "images/val", 10, "no such file or folder"),
    ],
)
def test_data_files_that_do_not_fit(
    train: str, val: str, classes: int, message: str, tmp_path: Path, make: MakeImages
) -> None:
    make(20, "images/train")
    make(8, "images/val")
    with pytest.raises(InputError, match=message):
        images_from(_data_yaml(tmp_path, train=train, val=val, classes=classes), NAMES)


@pytest.mark.parametrize("text", ["10 0.5 0.5 0.1 0.1", "0 0.5 0.5 1.5 0.1", "0 0.5", "a b c d e"])
def test_damaged_labels_are_named(text: str, make: MakeImages) -> None:
    folder = make(24, labels=True)
    _label(folder / "0007.jpg", f"{LABEL}{text}\n")
    with pytest.raises(InputError, match=r"0007\.txt, line 2"):
        images_from(str(folder), NAMES)


@pytest.mark.parametrize(("count", "warned"), [(24, 18), (132, 99), (134, 0)])
def test_few_images_are_warned_of_with_their_count(
    count: int, warned: int, make: MakeImages, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make(count)
    images_from(str(folder), NAMES)
    messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(messages) == bool(warned)
    for message in messages:
        assert all(part in message for part in (str(folder), f"{warned} images", "fewer than 100"))


# Without --data


def test_the_demo_model_has_its_scenes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = default_images(NAMES, folder=tmp_path)
    assert (len(found.calibration), len(found.held_out)) == (128, 128)
    assert found.labels is not None
    assert {path.parent.name for path in found.calibration} == {"train"}
    wanted = [scene(index).class_id.tolist() for index in range(0, 128, 16)]
    assert [sorted(one.class_id.tolist()) for one in found.labels[::16]] == [sorted(one) for one in wanted]
    assert caplog.records == []


@pytest.mark.parametrize(
    "names",
    [
        {0: "cat"},
        NAMES | {9: "cat"},
        {index: str(index) for index in range(80)},
        COCO_NAMES | {80: "cat"},
    ],
    ids=["one", "not the demo", "eighty", "eighty-one"],
)
def test_other_models_have_no_images_of_their_own(
    names: dict[int, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRT_YOLO_WEIGHTS_URL", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"no images of what this model detects.*: give --data"):
        default_images(names, folder=tmp_path)


class _Quiet(SimpleHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, list[str]]]:
    """A folder that a web server gives files of, the paths that it was asked for, and an empty cache."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "served"
    folder.mkdir()
    handler = type("_Handler", (_Quiet,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("TRT_YOLO_WEIGHTS_URL", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("TRT_YOLO_CACHE", str(tmp_path / "cache"))
        yield folder, handler.asked  # type: ignore[attr-defined]
        server.shutdown()
        thread.join(10)


def _coco128(count: int = 136, **others: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("coco128/README.txt", "no label")
        for index in range(count):
            archive.writestr(f"coco128/images/train2017/{index:04d}.jpg", _jpeg(index % 7))
            archive.writestr(f"coco128/labels/train2017/{index:04d}.txt", LABEL)
        for name, text in others.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def test_coco_is_downloaded_once(
    served: tuple[Path, list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, asked = served
    (folder / "coco128.zip").write_bytes(_coco128())
    found = default_images(COCO_NAMES, folder=tmp_path)
    assert (len(found.calibration), len(found.held_out)) == (102, 34)
    assert found.labels is not None
    assert [one.class_id.tolist() for one in found.labels] == [[0]] * 34
    assert caplog.records == []
    assert default_images(COCO_NAMES, folder=tmp_path).calibration == found.calibration
    assert asked == ["/coco128.zip"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["coco128"], "no archive is left"


def test_paths_in_the_archive_do_not_lead_out_of_it(served: tuple[Path, list[str]], tmp_path: Path) -> None:
    escapes = {
        "../../images/evil1.jpg": "evil",
        "/images/evil2.jpg": "evil",
        "coco128/images/../../../evil3.jpg": "evil",
        "coco128/labels/../../../../evil4.txt": "evil",
        f"{tmp_path}/labels/evil5.txt": "evil",
        "coco128/images/evil6.sh": "evil",
    }
    (served[0] / "coco128.zip").write_bytes(_coco128(**escapes))
    default_images(COCO_NAMES, folder=tmp_path)
    cache = tmp_path / "cache" / "coco128"
    outside = [path for path in tmp_path.rglob("*evil*") if cache not in path.parents]
    assert outside == []
    assert not any(path.suffix == ".sh" for path in cache.rglob("*"))


@pytest.mark.parametrize("kind", ["missing", "a page", "a damaged archive", "an empty archive"])
def test_a_failed_download_of_coco_is_one_error_and_can_be_tried_again(
    kind: str, served: tuple[Path, list[str]], tmp_path: Path
) -> None:
    archive = served[0] / "coco128.zip"
    good = _coco128()
    middle = len(good) // 3
    content = {
        "a page": b"<html>Please accept our terms</html>",
        "a damaged archive": good[:middle] + bytes(2000) + good[middle + 2000 :],
        "an empty archive": _coco128(0),
    }
    if kind in content:
        archive.write_bytes(content[kind])
    with pytest.raises(TrtYoloError):
        default_images(COCO_NAMES, folder=tmp_path)
    archive.write_bytes(good)
    assert len(default_images(COCO_NAMES, folder=tmp_path).calibration) == 102


def test_offline_the_error_says_what_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_YOLO_WEIGHTS_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("TRT_YOLO_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="give --data, 100 to 500 images") as error:
        default_images(COCO_NAMES, folder=tmp_path)
    assert "http://127.0.0.1:9/coco128.zip" in str(error.value)
    assert "\n" not in str(error.value)


# The key of a set of images


def test_the_hash_is_of_contents_in_their_order(make: MakeImages, tmp_path: Path) -> None:
    paths = sorted(make(4).iterdir())
    known = images_sha256(paths)
    assert len(known) == len(hashlib.sha256().hexdigest())
    moved = [path.rename(tmp_path / f"other-{path.name}") for path in paths]
    assert images_sha256(moved) == known, "names do not count"
    assert images_sha256(moved[::-1]) != known, "the order does"
    assert images_sha256(moved[:3]) != known
    content = moved[2].read_bytes()
    moved[2].write_bytes(content + b"\0")
    assert images_sha256(moved) != known, "and each byte"
    moved[2].write_bytes(content)
    assert images_sha256(moved) == known


def test_the_hash_knows_where_an_image_ends(tmp_path: Path) -> None:
    one, other = tmp_path / "1", tmp_path / "2"
    hashes = set()
    for split in (1, 2):
        one.write_bytes(b"abc"[:split])
        other.write_bytes(b"abc"[split:])
        hashes.add(images_sha256([one, other]))
    assert len(hashes) == 2
