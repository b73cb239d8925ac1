"""Options of Ultralytics, trtexec and others, and what trt-yolo has for each.

Enters: the words of a command line that trt-yolo does not take. Leaves: one sentence with the equivalents, or None.
Knows no click: the options of each command are given.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

Options = Mapping[str, Mapping[str, bool]]
"""The options of each command, such as `--imgsz`, and whether they are flags."""

_ULTRALYTICS: dict[str, dict[str, str]] = {
    "agnostic-nms": {"*": "leave it out, NMS is per class"},
    "augment": {"*": "leave it out, there is no test-time augmentation"},
    "batch": {
        "predict": "a model made with trt-yolo export --batch {value}",
        "val": "leave it out, val takes the model's batch",
    },
    "cfg": {"*": "the options one by one, there is no configuration file"},
    "conf": {"val": "leave it out, mAP uses every confidence"},
    "data": {"predict": "leave it out, the names are in the model"},
    "device": {
        "predict bench": "--devices 0 (several: 0,1), or --provider cpu",
        "export": "leave it out, CUDA_VISIBLE_DEVICES selects the GPU for --format engine",
        "*": "leave it out, this runs on the CPU",
    },
    "dnn": {"*": "leave it out, ONNX Runtime runs an .onnx"},
    "dynamic": {"export": "--batch 1:16 (the image size is fixed by --imgsz)"},
    "exist-ok": {"predict": "--overwrite", "*": "leave it out"},
    "fraction": {"export": "fewer images in --data"},
    "half": {"export": "--fp16", "predict val bench": "a model made with trt-yolo export --fp16"},
    "img-size": {"export val": "--imgsz {value}", "predict bench": "a model made with trt-yolo export --imgsz {value}"},
    "imgsz": {"predict bench": "a model made with trt-yolo export --imgsz {value}"},
    "int8": {"predict val bench": "a model made with trt-yolo export --int8"},
    "iou": {"val": "leave it out, NMS uses an IoU of 0.7"},
    "max-det": {"export": "--rows {value}", "val": "leave it out, mAP uses at most 300 detections per image"},
    "mode": {"*": "the first word, such as trt-yolo export"},
    "model": {"export inspect predict val bench": "just {value}"},
    "name": {"predict": "--save FOLDER", "export": "--out FOLDER"},
    "nms": {"*": "leave it out, NMS is in the graph (trt-yolo export --head omits it)"},
    "plots": {"bench": "--html FILE", "*": "leave it out, there are no plots"},
    "project": {"predict": "--save FOLDER", "export": "--out FOLDER"},
    "quantize": {
        "export": "--int8 for 8, --fp16 for 16",
        "predict val bench": "a model made with trt-yolo export --int8 for 8, --fp16 for 16",
    },
    "save": {"predict": "--save FOLDER", "export": "--out FOLDER", "bench": "--html FILE"},
    "save-conf": {"predict val": "--json"},
    "save-crop": {"predict": "--json, which has every box"},
    "save-frames": {"predict": "--save FOLDER"},
    "save-json": {"predict val": "--json"},
    "save-txt": {"predict val": "--json"},
    "show": {"predict": "--save FOLDER, there is no window"},
    "simplify": {"*": "leave it out, the graph is simple already"},
    "source": {"predict": "just {value}", "export bench val": "--data {value}"},
    "stream": {"*": "leave it out, results are always streamed"},
    "task": {"*": "leave it out, all models are detectors"},
    "tracker": {"*": "leave it out, there is no tracking"},
    "verbose": {"predict val bench": "leave it out"},
    "vid-stride": {"predict": "leave it out, every frame of a video is used"},
    "workers": {"val": "--threads {value}", "export": "leave it out"},
    "workspace": {"export": "--workspace {value}G"},
} | {
    name: {"*": "leave it out"}
    for name in (
        "embed", "keras", "line-width", "optimize", "retina-masks", "save-period", "show-boxes", "show-conf",
        "show-labels", "stream-buffer", "visualize",
    )
}  # fmt: skip

_TRTEXEC: dict[str, dict[str, str]] = {
    "allowgpufallback": {"export": "leave it out, --dla falls back to the GPU"},
    "best": {"export": "--int8, the other layers stay FP16"},
    "builderoptimizationlevel": {"export": "--opt-level {value}"},
    "calib": {"export": "--int8 --data IMAGES"},
    "exportlayerinfo": {"inspect": "--json"},
    "exportprofile": {"inspect": "--times {value}, with a file that trtexec wrote"},
    "exporttimes": {"bench": "--samples {value}"},
    "fp16": {"predict val bench": "a model made with trt-yolo export --fp16"},
    "hardwarecompatibilitylevel": {"export": "--hardware-compat ampere+"},
    "infstreams": {"bench predict": "--streams {value}"},
    "iterations": {"bench": "--min-count {value}"},
    "loadengine": {"bench predict inspect": "just {value}"},
    "mempoolsize": {"export": "--workspace 2G"},
    "onnx": {"export bench predict val inspect": "just {value}"},
    "saveengine": {"export": "--format engine --out FOLDER"},
    "shapes": {"export": "--batch 8 --imgsz 640", "bench": "--batch 8"},
    "skipinference": {"export": "leave it out"},
    "sparsity": {"export": "--sparse"},
    "stripweights": {"export": "--strip-weights"},
    "stronglytyped": {"*": "leave it out, the types are in the graph"},
    "timingcachefile": {"export": "--timing-cache {value}"},
    "usecudagraph": {"bench": "leave it out, it is the default (--no-graphs turns it off)"},
    "usedlacore": {"export": "--dla {value}"},
    "usespinwait": {"bench predict": "--spin"},
    "versioncompatible": {"export": "--version-compatible"},
    "warmup": {"bench": "leave it out, bench warms up by itself"},
} | {
    name: {"export": "--batch 1:16 --imgsz 640 (smallest, best and largest batch: --profile 1,4,16)"}
    for name in ("minshapes", "optshapes", "maxshapes")
}

_OTHERS: dict[str, dict[str, str]] = {  # YOLOv5, TensorRT-YOLO, trtutils
    "batch-size": {"export bench": "--batch {value}"},
    "calibration-dir": {"export": "--int8 --data {value}"},
    "conf-thres": {"predict": "--conf {value}"},
    "cudagraph": {"bench": "leave it out, it is the default (--no-graphs turns it off)"},
    "dla-core": {"export": "--dla {value}"},
    "engine": {"predict bench inspect": "just {value}", "export": "--format engine"},
    "include": {"export": "--format {value}"},
    "input": {"predict": "just {value}"},
    "iou-thres": {"predict": "--iou {value}"},
    "labels": {"predict": "leave it out, the names are in the model"},
    "max-boxes": {"predict": "--max-det {value}", "export": "--rows {value}"},
    "nosave": {"predict": "leave it out"},
    "output": {"predict": "--save {value}", "export": "--out {value}"},
    "view-img": {"predict": "--save FOLDER, there is no window"},
    "weights": {"export predict val bench inspect": "just {value}"},
}

FIRST_WORDS = {
    "benchmark": "trt-yolo bench",
    "build": "trt-yolo export --format engine",
    "checks": "trt-yolo doctor",
    "convert": "trt-yolo export",
    "detect": "leave it out",
    "help": "trt-yolo --help",
    "infer": "trt-yolo predict",
    "track": "trt-yolo predict --json, followed by a tracker",
    "train": "train with Ultralytics, then trt-yolo export best.pt",
    "trtexec": "trt-yolo export --format engine, or trt-yolo bench",
    "trtyolo": "leave it out",
    "validate": "trt-yolo val",
    "version": "trt-yolo --version",
    "yolo": "leave it out",
}

TABLES = {"Ultralytics": _ULTRALYTICS, "trtexec": _TRTEXEC, "another tool": _OTHERS}
_PAIR = re.compile(r"(--)?([A-Za-z][\w-]*)(?:=(.*))?", re.DOTALL)
_OTHER_COMMAND = "another command"
_OFF = ("false", "none")


class _Equivalent(NamedTuple):
    """A word of another tool, whose it is, and what to write instead."""

    typed: str
    tool: str
    text: str


def equivalents(command: str, words: Sequence[str], options: Options) -> list[_Equivalent]:
    """What to write for each word of another tool; a name or pattern of existing files is no such word."""
    found = (
        _equivalent(typed, name, value, command, options)
        for typed, name, value in _foreign(words, options.get(command, {}))
    )
    return [one for one in found if one is not None]


def equivalents_at_start(words: Sequence[str], options: Options) -> list[_Equivalent]:
    """The same, of a line that does not begin with a command of trt-yolo: `yolo predict`, `mode=export`."""
    command, found = "", []
    for word in words:
        name = word.removeprefix("mode=")
        if name in options and name == word:
            command = name
            break
        text = f"trt-yolo {name}" if name in options else FIRST_WORDS.get(name)
        if text is not None:
            found.append(_Equivalent(word, "Ultralytics", text))
            named = re.search(r"trt-yolo ([a-z]+)", text)
            command = named[1] if named else command
        elif "=" not in word and not word.startswith("-"):
            break
    rest = [one for one in equivalents(command, words, options) if not one.typed.startswith("mode=")]
    return found + rest


def sentence(found: Sequence[_Equivalent]) -> str:
    """One line that says what to write instead of each word."""
    tool = found[0].tool
    what = "option" if tool == _OTHER_COMMAND else "syntax"
    whose = f"{tool}'{'' if tool.endswith('s') else 's'} {what}"
    if len(found) == 1:
        return f"{found[0].typed} is {whose}; instead: {found[0].text}"
    return f"this is {whose}; instead: " + "; ".join(f"{one.typed} -> {one.text}" for one in found)


def _foreign(words: Sequence[str], own: Mapping[str, bool]) -> Iterator[tuple[str, str, str | None]]:
    """The word, the name and the value of each `name=value` and `--name value`, but of one's own options."""
    for index, word in enumerate(words):
        pair = _PAIR.fullmatch(word)
        if pair is None or (pair[1] is None and (pair[3] is None or _names_files(word))):
            continue
        dashes, name, value = pair.groups()
        if dashes is None:
            yield word, name, value
        elif f"--{name}" not in own:
            after = words[index + 1] if index + 1 < len(words) else "-"
            yield f"--{name}", name, value if value is not None else None if after.startswith("-") else after


def _names_files(word: str) -> bool:
    return os.path.exists(word) or any(glob.iglob(word))


def _equivalent(
    typed: str, name: str, value: str | None, command: str, options: Options
) -> _Equivalent | None:
    """What to write in this command or, if it has nothing like it, in another."""
    name = name.lower().replace("_", "-")
    tool = next((tool for tool, table in TABLES.items() if name in table), "Ultralytics")
    if name not in TABLES[tool] and any(typed in flags for flags in options.values()):
        tool = _OTHER_COMMAND
    here = _texts(tool, name, options)
    if not here:
        return None
    text = here.get(command) or here.get("*")
    if value is not None and value.lower() in _OFF:
        text = "leave it out"
    elif text is None:
        other = next((one for one, flags in options.items() if f"--{name}" in flags), next(iter(here)))
        text = f"trt-yolo {other} {here[other].removeprefix('just ')}"
    return _Equivalent(typed, tool, text.replace("{value}", _written(name, value)))


def _texts(tool: str, name: str, options: Options) -> dict[str, str]:
    """What to write in each command: the table's text, or the option of the same name."""
    texts = {one: text for many, text in TABLES.get(tool, {}).get(name, {}).items() for one in many.split()}
    for command, flags in options.items():
        if f"--{name}" in flags:
            texts.setdefault(command, f"--{name}" if flags[f"--{name}"] else f"--{name} {{value}}")
    return texts


def _written(name: str, value: str | None) -> str:
    """A value as it is written here: `[384, 640]` is 384x640 as a size, 384,640 as a list."""
    if value is None:
        return "VALUE"
    bare = value.strip("()[]").replace(", ", ",")
    return shlex.quote(bare.replace(",", "x") if name.startswith("im") else bare)
