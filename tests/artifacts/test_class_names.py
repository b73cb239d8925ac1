"""Class names from lists and mappings: kept where they fit, numbered and said where they do not."""

from __future__ import annotations

from typing import Any

import pytest

from trt_yolo.artifacts.class_names import class_names


@pytest.mark.parametrize(
    "given",
    [["cat", "dog", "7"], ("cat", "dog", 7), {0: "cat", 1: "dog", 2: "7"}, {"2": 7, "0": "cat", " 1": "dog"},
     {0.0: "cat", 1.0: "dog", 2.0: "7"}],
    ids=["list", "tuple", "numbers", "texts", "fractions"],
)  # fmt: skip
def test_names_that_fit_are_kept_in_silence(given: Any, caplog: pytest.LogCaptureFixture) -> None:
    got = class_names(given, classes=3, origin="a.pt")
    assert list(got.items()) == [(0, "cat"), (1, "dog"), (2, "7")]
    assert not caplog.records


@pytest.mark.parametrize(
    ("given", "wanted", "said"),
    [
        (["a", "b"], ["a", "b", "class_2"], "without a name: class_2"),
        ({"0": "a", "2": "c"}, ["a", "class_1", "c"], "without a name: class_1"),
        (["a", "b", "c", "d"], ["a", "b", "c"], "ignored: 'd'"),
        ({1: "a", 2: "b", 3: "c"}, ["class_0", "a", "b"], "without a name: class_0; ignored: 'c'"),
        (["a", None, ["c"]], ["a", "class_1", "class_2"], "without a name: class_1, class_2"),
        (
            {"a": 0, "b": 1, "c": 2},
            ["class_0", "class_1", "class_2"],
            "without a name: class_0, class_1, class_2",
        ),
        (None, ["class_0", "class_1", "class_2"], "without a name: class_0, class_1, class_2"),
        ("abc", ["class_0", "class_1", "class_2"], "without a name: class_0, class_1, class_2"),
        (["a", "b", "c", *"\x1b" * 9], ["a", "b", "c"], r"ignored: '\x1b', '\x1b', '\x1b' and 6 more"),
        ({0: "a", 1: "b", 2: "c", float("nan"): "d", float("inf"): "e"}, ["a", "b", "c"], None),
    ],
)
def test_what_does_not_fit_is_said_once(
    given: Any, wanted: list[str], said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert list(class_names(given, classes=3, origin="a.pt").values()) == wanted
    start = "a.pt: its class names do not match its 3 classes; "
    assert len(caplog.messages) == (said is not None)
    assert all(message.startswith(start) and str(said) in message for message in caplog.messages)
