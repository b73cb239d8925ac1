"""A record of `tools/gpu_check`: its file, its goals, its values as text, its page."""

from __future__ import annotations

import html.parser
from pathlib import Path

import pytest
from gpu_check_samples import empty_record
from gpu_checks.page import page_from_record
from gpu_checks.record import NoRecordError, Row, goal_row, record_from_file
from gpu_checks.table import heading, number_text, value_text


def test_the_record_and_back(tmp_path: Path) -> None:
    record = empty_record("build")
    record.parts[0].rows = [
        Row(name="a", state="missed", value=0.93218, low=0.9, high=float("inf"), goal=">= 0.95")
    ]
    record.parts[0].ending = "done"
    record.write(tmp_path / "x.json")
    again = record_from_file(tmp_path / "x.json")
    assert again.parts[0].rows[0] == Row(
        name="a", state="missed", value=0.9322, low=0.9, high=None, goal=">= 0.95"
    )
    assert again.row("build", "a") is again.parts[0].rows[0]
    assert again.row("bench", "a") is None
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"tool": "x", "schema": 1}', "is no result of tools/gpu_check"),
        ('{"tool": "trt-yolo gpu_check", "schema": 9}', "has schema 9, this trt-yolo reads 1"),
        ('{"tool": "trt-yolo gpu_check", "schema": 1, "parts": [{"rows": [{"x": 1}]}]}', "is damaged"),
    ],
)
def test_what_is_no_record(text: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(NoRecordError, match=part):
        record_from_file(tmp_path / "x.json")
    with pytest.raises(NoRecordError, match="cannot read"):
        record_from_file(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("value", "goal", "counts", "state"),
    [
        (0.95, ">= 0.95", True, "ok"),
        (0.949, ">= 0.95", True, "missed"),
        (60.0, "<= 60", True, "ok"),
        (61.0, "<= 60", True, "missed"),
        (61.0, "<= 60", False, "info"),
        (None, "<= 60", True, "absent"),
        (float("nan"), "<= 60", True, "absent"),
    ],
)
def test_goals(value: float | None, goal: str, counts: bool, state: str) -> None:
    assert goal_row("x", value, goal, counts=counts).state == state


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (Row(name="x"), ""),
        (Row(name="x", value="1.7.1"), "1.7.1"),
        (Row(name="x", value=0.0, unit="px at most"), "0 px at most"),
        (Row(name="x", value=0.98765, low=0.9, high=1.0, goal=">= 0.95"), "0.988 [0.9, 1] (>= 0.95)"),
        (Row(name="x", value=12345.6, unit="images/s"), "12346 images/s"),
        (Row(name="x", goal=">= 1"), "(>= 1)"),
    ],
)
def test_values_as_text(row: Row, text: str) -> None:
    assert value_text(row) == text
    assert number_text(None) == ""


class _Page(html.parser.HTMLParser):
    """Tags that are open, and whatever would be fetched or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        self.fetched += [
            f"{key}={value}" for key, value in attrs if key in ("src", "href", "onload", "onclick")
        ]
        self.fetched += [tag] if tag in ("script", "iframe", "img", "link") else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing() -> None:
    record = empty_record("build", "bench")
    record.machine = {"cpu": "<b>x</b>", "packages": {"numpy": "2"}, "providers": ["a", "b"]}
    record.parts[0].error = "<script>alert(1)</script>"
    record.parts[1].rows = [Row(name="<i>", value=1.0, goal=">= 2", state="missed", note="a & b")]
    text = page_from_record(record)
    page = _Page()
    page.feed(text)
    page.close()
    assert (page.open, page.fetched) == ([], [])
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "default-src 'none'" in text
    assert "No GPU was used" in text
    assert "It was cut short" in text
    assert "NO GPU: a rehearsal on a processor" in heading(record)
