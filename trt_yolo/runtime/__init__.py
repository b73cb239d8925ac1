"""Images in, detections out: workers, the slots shared with them, and the threads of the program that feed them.

The order of its locks. A thread that holds one takes only what hangs below it, so that no two threads wait for each
other; what stands at the left is taken with none held.

    Stream._lock                        the reader and the consumer of a stream
     ├─> Feeder._lock                   files for the decode threads, in the stream's order
     └─> job._ENDING                    what is under way when the model was closed
    Completions._turn                   a caller that waits for its answer, and takes those of others meanwhile
     ├─> Completions._taking            the same caller, or the supervisor: one at a time takes answers
     │    ├─> Batcher._lock             the slot that was answered is free; a worker that ended has none
     │    ├─> Feeder._lock              frames that run again
     │    ├─> job._ENDING               the job that was answered; its callback, as of a future, may submit the next
     │    └─> Completions._state        as it does when a future is done, or the descriptors are closed
     └─> Completions._state             who takes answers from now on
    Model._files                        a caller of `submit`, as long as too many files are under way

`Batcher._lock`, `Feeder._lock`, `job._ENDING` and `Completions._state` are taken by every thread, each held for a few
lines, and nothing is taken below them. `tests/runtime/test_lock_order.py` reads this drawing and holds the code to it.
"""
