"""`python -m gpu_checks`, with `tools` on the path: what `tools/gpu_check` calls."""

from gpu_checks.command import run

if __name__ == "__main__":
    run()
