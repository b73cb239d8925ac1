"""Which files are meant by names, folders and glob patterns, and what is no source."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trt_yolo.errors import InputError
from trt_yolo.media.sources import check_source, find_images, find_sources, is_video


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """b.jpg, a.PNG, "e[1].jpg", sub/c.webp, sub/deeper/d.jpg, mixed/(a.jpg, b.mp4, c.3GP, ._a.jpg), v/(two videos)"""
    files = (
        "b.jpg", "a.PNG", "notes.md", "sub/c.webp", "sub/deeper/d.jpg", "e[1].jpg", "list.txt", "7", "a%d.jpg",
        "mixed/a.jpg", "mixed/b.mp4", "mixed/c.3GP", "mixed/._a.jpg", "mixed/.b.mp4", "v/x.m2ts", "v/y.mkv",
        "日本 é/straße 🚗.jpg", "2024/a.jpg", "50%d/a.jpg",
    )  # fmt: skip
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


IMAGES = ["a%d.jpg", "a.PNG", "b.jpg", "e[1].jpg"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param(["b.jpg"], ["b.jpg"], id="file"),
        pytest.param([Path("b.jpg")], ["b.jpg"], id="path"),
        pytest.param(["notes.md"], ["notes.md"], id="file-of-any-suffix"),
        pytest.param(["e[1].jpg"], ["e[1].jpg"], id="file-that-looks-like-a-glob"),
        pytest.param(["7", "a%d.jpg"], ["7", "a%d.jpg"], id="files-that-look-like-a-camera-and-a-sequence"),
        pytest.param(["2024", "50%d"], ["2024/a.jpg", "50%d/a.jpg"], id="folders-that-look-like-them"),
        pytest.param(["."], IMAGES, id="folder-sorted-and-not-below"),
        pytest.param(["sub"], ["sub/c.webp"], id="folder-below"),
        pytest.param(["日本 é"], ["日本 é/straße 🚗.jpg"], id="any-character"),
        pytest.param(["*.jpg"], ["a%d.jpg", "b.jpg", "e[1].jpg"], id="glob"),
        pytest.param(["*"], IMAGES, id="glob-takes-images-and-videos-only"),
        pytest.param(["sub/**"], ["sub/c.webp", "sub/deeper/d.jpg"], id="glob-reaching-below"),
        pytest.param(["[ab].*"], ["a.PNG", "b.jpg"], id="glob-of-characters"),
        pytest.param(["sub", "b.jpg", "a.PNG"], ["sub/c.webp", "b.jpg", "a.PNG"], id="sources-in-order"),
        pytest.param(["b.jpg", "b.jpg"], ["b.jpg", "b.jpg"], id="twice"),
        pytest.param(["mixed/._a.jpg"], ["mixed/._a.jpg"], id="hidden-by-its-name"),
        pytest.param(["mixed/.*"], ["mixed/._a.jpg", "mixed/.b.mp4"], id="hidden-by-a-glob"),
        pytest.param(
            ["mixed"], ["mixed/a.jpg", "mixed/b.mp4", "mixed/c.3GP"], id="mixed-folder-without-hidden"
        ),
        pytest.param(["v"], ["v/x.m2ts", "v/y.mkv"], id="folder-of-videos"),
        pytest.param(["v/*"], ["v/x.m2ts", "v/y.mkv"], id="glob-of-videos"),
    ],
)
def test_find_sources(tree: Path, given: list[str | Path], wanted: list[str]) -> None:
    assert find_sources(given) == [Path(name) for name in wanted]
    images = [Path(name) for name in wanted if Path(name).suffix not in (".mp4", ".3GP", ".m2ts", ".mkv")]
    if images or not wanted:
        assert find_images(given) == images


def test_absolute_paths(tree: Path) -> None:
    assert find_sources([str(tree / "sub"), tree / "b*"]) == [tree / "sub" / "c.webp", tree / "b.jpg"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param("gone.jpg", "no such file or folder: gone.jpg", id="missing"),
        pytest.param("gone/b.jpg", "no such file or folder: gone/b.jpg", id="missing-folder"),
        pytest.param("b.jpg/c.jpg", "no such file or folder: b.jpg/c.jpg", id="below-a-file"),
        pytest.param("gone.txt", "no such file or folder: gone.txt", id="missing-list"),
        pytest.param("empty", "the folder empty holds no images or videos; images end in", id="empty-folder"),
        pytest.param("gone*.jpg", "no image or video matches gone*.jpg", id="glob-of-none"),
        pytest.param("notes.*", "no image or video matches notes.*", id="glob-of-neither"),
        pytest.param("x" * 300, "no such file or folder: xxx", id="name-too-long"),
        pytest.param("a\0b", "no such file or folder: a\0b", id="null-character"),
        pytest.param("list.txt", "list.txt is a text file, and lists of files are not supported yet; give", id="list"),
        pytest.param("rtsp://u:secret@cam/1", "the rtsp:// address is not supported yet; give files", id="rtsp"),
        pytest.param(Path("rtsp://u:secret@cam/1"), "the rtsp:// address is not supported yet", id="rtsp-as-path"),
        pytest.param("HTTP://u:secret@host/a.jpg", "the http:// address is not supported yet", id="http"),
        pytest.param("0", 'the camera 0 is not supported yet; give files, folders or glob patterns such as "f', id="0"),
        pytest.param("/dev/video7", "the camera /dev/video7 is not supported yet", id="camera"),
        pytest.param("frames/%05d.jpg", "the printf pattern frames/%05d.jpg is not supported yet", id="printf"),
    ],
)  # fmt: skip
def test_what_is_no_source(tree: Path, source: str | Path, message: str) -> None:
    with pytest.raises(InputError) as caught:
        find_sources(["b.jpg", source])
    assert str(caught.value).startswith(message)
    assert "secret" not in str(caught.value)


def test_a_number_is_a_camera_whatever_files_are_called(tree: Path) -> None:
    with pytest.raises(InputError, match="the camera 7 is not supported yet"):
        check_source(7)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("v", "v holds 2 videos and no images; images end in .jpg"),
        ("v/*", "v/* matches 2 videos and no images"),
        ("v/y.mkv", "v/y.mkv is a video; give images, folders or glob patterns"),
        ("empty", "the folder empty holds no images; images end in .jpg"),
        ("gone*", "no image matches gone*"),
    ],
)
def test_videos_are_no_images(tree: Path, source: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        find_images([source])
    assert str(caught.value).startswith(message)


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="permissions as on Unix")
def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    """Root may read everything: the test becomes somebody else."""
    (tmp_path / "locked").mkdir(mode=0)
    code = (
        "import os, sys; from trt_yolo.media.sources import find_sources; from trt_yolo.errors import InputError\n"
        "os.chdir(sys.argv[1]); os.getuid() or os.setuid(65534)\n"
        "try: find_sources(['locked'])\n"
        "except InputError as error: print(error)\n"
    )
    tmp_path.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "cannot read the folder locked: Permission denied\n", done.stderr


@pytest.mark.parametrize(
    ("name", "head", "is_one"),
    [
        ("a.mp4", b"", True),
        ("A.MKV", b"", True),
        ("a.jpg", b"\0\0\0\x20ftypisom", False),
        ("mp4", b"", False),
        ("clip", b"\0\0\0\x20ftypisom", True),
        ("photo", b"\0\0\0\x20ftypavif", False),
        ("clip.part", b"\x1a\x45\xdf\xa3", True),
        ("clip.xyz", b"RIFF\0\0\0\0AVI ", True),
        ("sound", b"RIFF\0\0\0\0WAVE", False),
        ("clip.dat", (b"G" + bytes(187)) * 3, True),
        ("text", b"Good evening", False),
    ],
)  # fmt: skip
def test_videos_are_told_by_name_or_else_by_how_they_begin(
    name: str, head: bytes, is_one: bool, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(head)
    assert is_video(tmp_path / name) == is_one
    assert is_video(str(tmp_path / name)) == is_one


def test_what_is_not_there_is_no_video_unless_its_name_says_so(tmp_path: Path) -> None:
    assert is_video(tmp_path / "gone.mp4")
    assert not is_video(tmp_path / "gone")
    assert not is_video(tmp_path)
