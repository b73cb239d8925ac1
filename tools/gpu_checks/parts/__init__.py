"""One file a part: `run(job, report)` reports rows as they come."""
