"""Where drawings go: names of their own, never over a source, over what existed only with overwrite."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trt_yolo.errors import InputError
from trt_yolo.media import targets
from trt_yolo.media.targets import find_targets, frame_path

_A_COMPOSED, _A_DECOMPOSED = "\u00e4", "a\u0308"


def _made(folder: Path, *names: str) -> list[Path]:
    """Files of those names, each with its name as its content."""
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    return paths


@pytest.mark.parametrize(
    ("sources", "wanted"),
    [
        ([], []),
        (["a/x.png", "b/x.png"], ["x.jpg", "x_1.jpg"]),
        (["a/x.png", "a/x.jpg"], ["x.jpg", "x_1.jpg"]),
        (["a/x.png", "b/x.png", "c/x_1.png"], ["x.jpg", "x_1.jpg", "x_1_1.jpg"]),
        (["c/x_1.png", "a/x.png", "b/x.png"], ["x_1.jpg", "x.jpg", "x_2.jpg"]),
        (["a/x.png", "a/x.png"], ["x.jpg"]),
        (["a/x.png", "b/X.PNG"], ["x.jpg", "X_1.jpg"]),
        (["a/Maß.png", "b/MASS.png"], ["Maß.jpg", "MASS_1.jpg"]),
        ([f"a/{_A_COMPOSED}.png", f"b/{_A_DECOMPOSED}.png"], [f"{_A_COMPOSED}.jpg", f"{_A_DECOMPOSED}_1.jpg"]),
        (["1/clip.mp4", "2/clip.mp4", "3/clip.mov"], ["clip", "clip_1", "clip_2"]),
        (["1/clip.mp4", "2/CLIP.AVI"], ["clip", "CLIP_1"]),
        (["a/clip.png", "a/clip.mp4"], ["clip.jpg", "clip"]),
        (["a/a.jpg", "a/a.jpg.mp4"], ["a.jpg", "a.jpg_1"]),
        (["a/a.jpg.mp4", "a/a.jpg"], ["a.jpg", "a_1.jpg"]),
        ([f"a/{'x' * 250}.png", f"b/{'x' * 250}.png"], [f"{'x' * 240}.jpg", f"{'x' * 240}_1.jpg"]),
        ([f"a/{'東' * 82}.jpeg"], [f"{'東' * 80}.jpg"]),
    ],
)  # fmt: skip
def test_names(sources: list[str], wanted: list[str], tmp_path: Path) -> None:
    found = find_targets(_made(tmp_path, *sources), tmp_path / "drawn")
    assert list(found.values()) == [tmp_path / "drawn" / name for name in wanted]
    assert not (tmp_path / "drawn").exists()


@pytest.mark.parametrize("name", ["...mp4", "..mp4"])
def test_a_video_s_folder_is_never_the_one_given_or_above(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"OggS")
    (target,) = find_targets([tmp_path / name], tmp_path / "drawn").values()
    assert target.parent == tmp_path / "drawn"
    assert target.name.strip(".")


def test_look_ups_grow_with_the_sources(tmp_path: Path) -> None:
    """Pictures of one name in as many folders: a few files and names looked up for each, whatever their number."""
    sources = [tmp_path / str(number) / "image.jpg" for number in range(400)]

    def look_ups(count: int) -> int:
        seen: list[object] = []
        with pytest.MonkeyPatch.context() as patch:
            for module, call in ((os, "stat"), (os, "lstat"), (targets, "_folded")):
                patch.setattr(module, call, _noting(getattr(module, call), seen))
            assert len(set(find_targets(sources[:count], tmp_path / "drawn").values())) == count
        return len(seen)

    few, many = look_ups(100), look_ups(400)
    assert many <= 4 * few <= 4 * 700


def _noting(call: Callable[..., Any], seen: list[object]) -> Callable[..., Any]:
    def noted(*arguments: object, **options: object) -> object:
        seen.append(call)
        return call(*arguments, **options)

    return noted


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("sources", "link", "wanted"),
    [
        (["out/a.jpg"], None, ["a_1.jpg"]),
        (["out/a.png", "out/a.jpg"], None, ["a_1.jpg", "a_2.jpg"]),
        (["out/clip/000000.jpg", "cam/clip.mp4"], None, ["000000.jpg", "clip_1"]),
        (["out/clip/1000000.JPG", "cam/clip.mp4"], None, ["1000000.jpg", "clip_1"]),
        (["out/clip", "cam/clip.mp4"], None, ["clip.jpg", "clip_1"]),
        (["in/a.png", "in/b.jpg"], ("out/a.jpg", "in/b.jpg"), ["a_1.jpg", "b.jpg"]),
        (["in/clip.mp4", "in/b.jpg"], ("out/clip/000007.jpg", "in/b.jpg"), ["clip_1", "b.jpg"]),
    ],
)
@pytest.mark.parametrize("make_link", [os.symlink, os.link], ids=["symlink", "hard link"])
def test_a_source_is_never_a_target(
    sources: list[str], link: Any, wanted: list[str], make_link: Any, overwrite: bool, tmp_path: Path
) -> None:
    made = _made(tmp_path, *sources)
    if link is not None:
        (tmp_path / link[0]).parent.mkdir(parents=True)
        make_link(tmp_path / link[1], tmp_path / link[0])
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "way").symlink_to(tmp_path / "out")
    for folder in (tmp_path / "out", tmp_path / "way"):
        found = find_targets(made, folder, overwrite=overwrite)
        assert list(found.values()) == [folder / name for name in wanted]


@pytest.mark.parametrize(
    ("sources", "existing", "first"),
    [
        (["in/a.png"], ["a.jpg"], "a.jpg"),
        (["in/b.png", "in/c.png", "in/a.png"], ["a.jpg", "c.jpg"], "c.jpg"),
        (["1/a.png", "2/a.png"], ["a_1.jpg"], "a_1.jpg"),
        (["in/clip.mp4"], ["clip/000009.jpg", "clip/000003.jpg"], "clip/000003.jpg"),
        (["1/clip.mp4", "2/clip.mp4"], ["clip_1/000000.JPG"], "clip_1/000000.JPG"),
    ],
)
def test_what_exists_is_overwritten_only_if_that_was_said(
    sources: list[str], existing: list[str], first: str, tmp_path: Path
) -> None:
    made, out = _made(tmp_path, *sources), tmp_path / "out"
    _made(out, *existing)
    with pytest.raises(InputError) as refused:
        find_targets(made, out)
    assert (
        str(refused.value) == f"{out / first} exists already; give another folder with --save, or --overwrite"
    )
    plain = find_targets(made, tmp_path / "other")
    assert find_targets(made, out, overwrite=True) == {
        source: out / target.name for source, target in plain.items()
    }


def test_a_link_to_nothing_is_something_that_exists(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="exists already"):
        find_targets(_made(tmp_path, "in/a.png"), tmp_path)


def test_other_files_in_the_folder_of_a_video_are_in_nobody_s_way(tmp_path: Path) -> None:
    _made(tmp_path, "clip/cover.jpg", "clip/00000.jpg", "clip/000000.jpg.txt")
    made = _made(tmp_path, "in/clip.mp4")
    assert find_targets(made, tmp_path) == {made[0]: tmp_path / "clip"}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(("source", "in_the_way"), [("in/a.png", "a.jpg/x"), ("in/clip.mp4", "clip")])
def test_a_folder_for_a_file_and_a_file_for_a_folder(
    source: str, in_the_way: str, overwrite: bool, tmp_path: Path
) -> None:
    _made(tmp_path, in_the_way)
    with pytest.raises(InputError, match=r"exists already; give another folder with --save$"):
        find_targets(_made(tmp_path, source), tmp_path, overwrite=overwrite)


def test_frames_are_called_what_is_looked_for(tmp_path: Path) -> None:
    (clip,) = _made(tmp_path, "clip.mp4")
    for index in (0, 999_999, 1_000_000):
        frame = frame_path(tmp_path / "out" / "clip", index)
        _made(frame.parent, frame.name)
        with pytest.raises(InputError, match=frame.name):
            find_targets([clip], tmp_path / "out")
        frame.unlink()
