"""What other libraries' errors become in a line of ours."""

from __future__ import annotations

import pytest

from trt_yolo.errors import first_line, on_one_line


@pytest.mark.parametrize(
    ("text", "first", "whole"),
    [
        ("one", "one", "one"),
        ("\n one\n  two\tthree", "one", "one two three"),
        ("x" * 300, "x" * 300, "x" * 200),
        ("", "ValueError", "ValueError"),
        (" \n", "ValueError", "ValueError"),
    ],
)
def test_an_error_on_one_line(text: str, first: str, whole: str) -> None:
    error = ValueError(text)
    assert (first_line(error), on_one_line(error)) == (first, whole)
