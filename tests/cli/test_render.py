"""Tables on a terminal of any width, and where nobody looks."""

from __future__ import annotations

import io
import re

import pytest

from trt_yolo.cli.render import print_table

FOLDER = "/tmp/a-rather-deep-folder/of-somebody/with-long-names/engines"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _printed(
    monkeypatch: pytest.MonkeyPatch, out: io.StringIO, width: int, columns: list[str], rows: list[list[str]]
) -> list[str]:
    for name, value in {"COLUMNS": str(width), "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", out)
    print_table("title", columns, rows)
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()


def _cells(lines: list[str]) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]


@pytest.mark.parametrize(
    ("width", "paths", "wanted"),
    [
        pytest.param(120, [f"{FOLDER}/a.onnx"], [f"{FOLDER}/a.onnx"], id="there-is-room"),
        pytest.param(60, [f"{FOLDER}/a.onnx"], [".../with-long-names/engines/a.onnx"], id="one"),
        pytest.param(40, [f"{FOLDER}/a.onnx"], [".../engines/a.onnx"], id="narrow"),
        pytest.param(
            60,
            [f"{FOLDER}/a.onnx", f"{FOLDER}/a-longer-name.onnx"],
            [".../engines/a.onnx", ".../engines/a-longer-name.onnx"],
            id="as-much-of-each",
        ),
        pytest.param(
            30, [f"{FOLDER}/x/a.onnx", f"{FOLDER}/y/a.onnx"], [".../x/a.onnx", ".../y/a.onnx"], id="only-what-is-shared"
        ),
        pytest.param(60, [f"{FOLDER}/a.mp4, 9"], [".../with-long-names/engines/a.mp4, 9"], id="words-after-it"),
    ],
)  # fmt: skip
def test_paths_lose_the_folders_that_they_share(
    monkeypatch: pytest.MonkeyPatch, width: int, paths: list[str], wanted: list[str]
) -> None:
    lines = _printed(monkeypatch, _Terminal(), width, ["model", "images/s"], [[path, "12"] for path in paths])
    assert max(map(len, lines)) <= width
    assert [" ".join(cells[0].split()) for cells in _cells(lines)] == wanted


def test_paths_that_share_nothing_are_broken_after_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [["one", f"{FOLDER}/a.onnx"], ["two", f"home{FOLDER}/b.onnx"]]
    lines = _printed(monkeypatch, _Terminal(), 50, ["what", "is"], rows)
    assert max(map(len, lines)) <= 50
    assert "".join(cells[1] for cells in _cells(lines)) == rows[0][1] + rows[1][1]
    assert all(cells[1].endswith(("/", ".onnx")) for cells in _cells(lines))


def test_a_table_that_is_too_wide_is_one_for_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = ["model", "precision", "parameters", "seconds"]
    rows = [[f"{FOLDER}/a.onnx", "fp32", "3.01", "7"], [f"{FOLDER}/b.onnx", "fp16", "1.50", "9"]]
    lines = _printed(monkeypatch, _Terminal(), 44, columns, rows)
    assert _cells(lines) == [
        ["model", ".../a.onnx"], ["precision", "fp32"], ["parameters", "3.01"], ["seconds", "7"],
        ["model", ".../b.onnx"], ["precision", "fp16"], ["parameters", "1.50"], ["seconds", "9"],
    ]  # fmt: skip


@pytest.mark.parametrize("width", [60, 80])
def test_no_word_is_folded(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    columns = ["precision", "layers", "conv", "matmul", "parameters", "MACs", "why"]
    rows = [["fp32", "335", "63", "12", "3.01 M", "649 M", "sensitive convolutions stay as they are"]]
    lines = _printed(monkeypatch, _Terminal(), width, columns, rows)
    assert max(map(len, lines)) <= width
    printed = {word for line in lines for word in re.findall(r"[\w.]+", line)}
    assert printed == {"title"} | {word for text in (*columns, *rows[0]) for word in text.split()}


def test_nothing_is_shortened_where_no_person_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[f"{FOLDER}/a.onnx", "some words, " * 20], [f"{FOLDER}/b.onnx", ""]]
    lines = _printed(monkeypatch, io.StringIO(), 60, ["model", "what"], rows)
    assert _cells(lines) == [[cell.strip() for cell in row] for row in rows]


def test_a_table_without_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _cells(_printed(monkeypatch, _Terminal(), 60, ["model", "what"], [])) == []
