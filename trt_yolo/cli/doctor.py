"""`trt-yolo doctor`: what is installed, what is missing for what, and what to install."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Say what is installed, and what is missing for CPU, GPU, RTX and export."""
    import platform

    from trt_yolo.cli.render import print_table
    from trt_yolo.environment import FEATURES, gpu_driver, missing, probe, warnings
    from trt_yolo.version import __version__

    probes = {name: probe(name) for feature in FEATURES for name in feature.packages}
    print_table(
        f"trt-yolo {__version__}, Python {platform.python_version()}, {platform.platform()}",
        ["package", "version", "state"],
        [[one.package, one.version or "-", one.state] for one in probes.values()],
    )
    typer.echo(f"NVIDIA driver: {gpu_driver()}")
    for feature in FEATURES:
        lacking = missing(feature, probes)
        if not lacking:
            typer.echo(f"{feature.name}: ready ({feature.purpose})")
        else:
            typer.echo(f"{feature.name}: missing {', '.join(lacking)} ({feature.purpose}): {feature.install}")
    for line in warnings(probes):
        typer.echo(f"note: {line}")
