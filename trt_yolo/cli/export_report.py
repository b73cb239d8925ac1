"""What `trt-yolo export` prints of an export: what was made, how it was checked, what precision costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trt_yolo.cli.render import print_table

if TYPE_CHECKING:
    from trt_yolo.export.report import ExportReport
    from trt_yolo.precision.report import PrecisionReport


def show_report(report: ExportReport) -> None:
    manifest, parity = report.manifest, report.parity
    height, width = manifest.imgsz_hw
    rows = [
        ["model", f"{manifest.source}, {len(manifest.names)} classes, by the {manifest.exporter} exporter"],
        ["input", f"{height}x{width}, batch {manifest.batch}, {manifest.precision}, opset {manifest.opset}"],
    ]
    if manifest.source_hw is not None:
        source_height, source_width = manifest.source_hw
        rows.append(["frames", f"{source_height}x{source_width} as they come: the letterbox is in the graph"])
    if parity is not None:
        rows.append(
            [
                "check",
                f"{parity.detections} detections on {parity.images} images: boxes within "
                f"{parity.worst_box_px:.2g} px, scores within {parity.worst_score:.2g} of the head graph",
            ]
        )
    if report.accuracy is not None:
        rows += _accuracy_rows(report.accuracy)
    if manifest.engine is not None:
        rows += _engine_rows(report)
    rows += [["wrote", f"{one.path} ({one.bytes / 1e6:.1f} MB)"] for one in report.artifacts]
    print_table("export", ["what", "is"], rows)
    if report.accuracy is not None and report.accuracy.kept:
        _show_kept(report.accuracy)


def _engine_rows(report: ExportReport) -> list[list[str]]:
    facts = report.manifest.engine
    assert facts is not None
    assert report.engine is not None
    checked = report.engine.self_test
    rows = [
        [
            "engine",
            f"{facts.builder} {facts.builder_version}, for compute capability "
            f"{', '.join(facts.compute_capabilities)}" + (f" ({facts.device})" if facts.device else ""),
        ],
        ["batch", "smallest {}, best {}, largest {}".format(*facts.profile)],
        ["build", f"{report.engine.build_seconds:.1f} s, {report.engine.peak_bytes / 1e6:.0f} MB of memory"],
    ]
    if checked is None:
        rows.append(["self-test", "not run: nothing here runs this engine"])
    else:
        rows.append(
            [
                "self-test",
                f"{checked.detections} detections, {checked.unmatched} without a partner, boxes within "
                f"{checked.worst_box_px:.2g} px, scores within {checked.worst_score:.2g} of ONNX Runtime; "
                f"batches {', '.join(map(str, checked.batches))}",
            ]
        )
    return rows


def _accuracy_rows(accuracy: PrecisionReport) -> list[list[str]]:
    from trt_yolo.precision.speed import speed_in_words

    before, after = accuracy.before, accuracy.after
    rows = [
        [
            "accuracy",
            f"mAP50-95 {before.map50_95:.4f} before, {after.map50_95:.4f} after: {-accuracy.drop:+.2f} points "
            f"({-accuracy.max_drop:+.2f} allowed); mAP50 {before.map50:.4f}, {after.map50:.4f}",
        ],
        [
            "judged by",
            f"{accuracy.held_out_images} images held out, against {accuracy.reference}"
            + ("" if accuracy.reference == "labels" else ", both models on mirrored images"),
        ],
    ]
    if accuracy.precision == "int8":
        kept = "reused" if accuracy.calibration_reused else "made"
        errors = ", ".join(f"{one.method} {one.error:.3f}" for one in accuracy.methods)
        rows += [
            [
                "calibration",
                f"{accuracy.method}, {accuracy.calibration_images} images, {kept}; errors: {errors}",
            ],
            ["int8", f"{accuracy.int8_share:.1%} of the multiply-accumulates, for {accuracy.target}"],
        ]
    if accuracy.speedup is not None:
        rows.append(["speed", speed_in_words(accuracy.speedup, accuracy.instructions)])
    ratio = accuracy.bytes_after / accuracy.bytes_before
    return [
        *rows,
        [
            "size",
            f"{accuracy.bytes_after / 1e6:.1f} MB, {ratio:.2f} of FP32's {accuracy.bytes_before / 1e6:.1f}",
        ],
    ]


def _show_kept(accuracy: PrecisionReport) -> None:
    rows = [
        [
            one.name,
            one.precision,
            one.reason,
            f"{one.macs_share:.1%}",
            "" if one.error is None else f"{one.error:.4f}",
        ]
        for one in accuracy.kept
    ]
    title = f"layers not in {accuracy.precision}"
    print_table(title, ["layer", "is", "why", "work", "error alone"], rows, numbers=2)
