"""Values of a report as text: numbers with the digits that they have, runs by what tells them apart.

Enters: what `Report.to_dict` gives. Leaves: text of printable characters that is not escaped yet. Knows no HTML
and no plots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NONE = "–"
_OPEN_LOADS = ("server", "cameras")
"""Loads whose images come when they come: their throughput is given, their latency is what was measured."""

_LONGEST = 44  # characters of a name in a plot
_THOUSAND = 1000
_HUNDRED = 100


def printable(value: object) -> str:
    """A value without what is no text: a name may hold line breaks, escapes, halves of characters."""
    return "".join(mark if mark.isprintable() else " " for mark in str(value))


def shortened(text: str) -> str:
    """A name that fits a plot; of names the end tells more than the beginning."""
    return text if len(text) <= _LONGEST else f"…{text[1 - _LONGEST :]}"


def moment_text(created: str) -> str:
    """A date and time of ISO 8601 as people write them."""
    return created.replace("T", " ").replace("+00:00", " UTC")


def rate_text(images_per_s: float | None) -> str:
    """Images a second."""
    if images_per_s is None:
        return NONE
    return f"{images_per_s:,.0f}" if images_per_s >= _THOUSAND else f"{images_per_s:.1f}"


def ms_text(milliseconds: float | None) -> str:
    """Milliseconds."""
    if milliseconds is None:
        return NONE
    if milliseconds >= _THOUSAND:
        return f"{milliseconds:,.0f}"
    return f"{milliseconds:.1f}" if milliseconds >= _HUNDRED else f"{milliseconds:.2f}"


def percent_text(share: float | None) -> str:
    """A share in percent."""
    return NONE if share is None else f"{100 * share:.1f}%"


def interval_of(values: Mapping[str, Any] | None) -> tuple[float, float] | None:
    """Both ends of a throughput's or ratio's 95% interval; None where there were too few windows for one."""
    if values is None:
        return None
    low, high = values.get("low"), values.get("high")
    return None if low is None or high is None else (float(low), float(high))


def rate_interval_text(throughput: Mapping[str, Any] | None) -> str:
    """The 95% interval of images a second."""
    interval = interval_of(throughput)
    return NONE if interval is None else f"{rate_text(interval[0])} to {rate_text(interval[1])}"


def ratio_text(ratio: Mapping[str, Any] | None) -> str:
    """A ratio with its 95% interval, where it has one; no result where it cannot be."""
    if ratio is None or ratio.get("ratio") is None:
        return NONE
    interval = interval_of(ratio)
    ends = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval is not None else ""
    text = f"{ratio['ratio']:.2f}{ends}"
    return f"measurement error ({text})" if ratio.get("is_error") else text


def counted(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def setting_words(setting: Mapping[str, Any]) -> tuple[str, ...]:
    """How a model was laid out, in three parts."""
    streams = setting.get("streams")
    return (
        f"batch {setting['batch']}",
        counted(setting["workers"], "worker") if setting["workers"] else "in process",
        counted(setting["threads"], "thread") if streams is None else counted(streams, "stream"),
    )


def run_title(run: Mapping[str, Any]) -> str:
    """Which load, which model, and how it was laid out."""
    parts = (model_of(run), model_text(run["model"]), *setting_words(run["setting"]))
    return f"{load_of(run)}: {', '.join(parts)}"


def model_text(model: Mapping[str, Any]) -> str:
    """What a model is, without its name."""
    height, width = model["imgsz"]
    accuracy = f", mAP50-95 {model['map50_95']:.4f}" if model.get("map50_95") is not None else ""
    return f"{printable(model['precision'])}, {height}×{width}{accuracy}"


def load_of(run: Mapping[str, Any]) -> str:
    """The load of a run, with its numbers."""
    return printable(run["scenario"]["label"])


def model_of(run: Mapping[str, Any]) -> str:
    """What the model of a run is called."""
    return printable(run["model"]["name"])


def labels_of(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells each of the runs from the others: of model, load and setting the parts that differ.

    The load is left out where it follows from the rest, as `multi-stream 4` does from a batch of 4.
    """
    parts = [(load_of(run), model_of(run), *setting_words(run["setting"])) for run in runs]
    differing = [at for at in range(5) if len({one[at] for one in parts}) > 1]
    if len({one[1:] for one in parts}) == len(set(parts)):
        differing = [at for at in differing if at]
    return [", ".join(one[at] for at in differing) for one in parts]


def is_open(run: Mapping[str, Any]) -> bool:
    """Whether its images came when they came."""
    return run["scenario"]["name"] in _OPEN_LOADS


def _key_of(run: Mapping[str, Any]) -> tuple[Any, ...]:
    """The same for two runs of one model in one setting, under whichever load."""
    setting = run["setting"]
    layout = (setting.get(name) for name in ("batch", "workers", "threads", "streams", "decode_threads"))
    return model_of(run), *layout


def shown_runs(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """All runs; of a sweep only those in its best settings: more curves than that nobody can tell apart."""
    runs, best = report["runs"], report.get("best")
    if best is None:
        return list(runs)
    best_keys = {
        _key_of(runs[best[name]]) for name in ("throughput", "latency") if best.get(name) is not None
    }
    return [run for run in runs if _key_of(run) in best_keys]


def best_in(run: Mapping[str, Any], report: Mapping[str, Any]) -> tuple[str, ...]:
    """What the setting of a run is the best of a sweep in."""
    best = report.get("best") or {}
    limit_ms = best.get("limit_ms")
    words = {"throughput": "most images/s", "latency": f"most within {limit_ms:g} ms" if limit_ms else ""}
    return tuple(
        word
        for name, word in words.items()
        if best.get(name) is not None and _key_of(report["runs"][best[name]]) == _key_of(run)
    )


def by_setting(runs: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Runs of one model in one setting together, in the order in which they came first."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault(_key_of(run), []).append(run)
    return list(groups.values())


def main_figures(run: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Those of the widest scope that was measured; None where none was."""
    found: Mapping[str, Any] | None = next(iter(run["scopes"].values()), None)
    return found


def rated_and_timed(
    runs: Sequence[Mapping[str, Any]],
) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """Of a setting's runs the one that shows its throughput, and the one that shows its latency."""
    measured = [(run, figures) for run in runs if (figures := main_figures(run)) is not None]
    timed = next((run for run, figures in measured if figures["latency_ms"] is not None), None)
    rated = next((run for run, figures in measured if figures["latency_ms"] is None), timed)
    return rated, timed
