"""What `tools/gpu_check` runs: parts, each in a process of its own, and what is made of their rows."""
