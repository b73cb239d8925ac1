"""A pickle's opcodes looked through before any of them runs.

Enters: bytes that begin with a pickle. Leaves: the pickle's length, or a `CheckpointError`. The unpickler itself
would take gigabytes for a large memo index, and forever to hash a tuple that holds another twice, that one a
third twice, and so on. Knows no classes: what may be named is up to `records.py`.
"""

from __future__ import annotations

import pickletools

from trt_yolo.errors import CheckpointError

MAX_PICKLE_BYTES = 2 << 20  # the structure only; a YOLOv8x checkpoint has 0.3 MB
_MAX_ITEMS = 1_000_000  # of one tuple with all that it holds written out
_MARK = -1
_HASHABLE = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET", "REDUCE"})
_GET = frozenset({"GET", "BINGET", "LONG_BINGET"})
_PUT = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})


def check_pickle(data: bytes) -> int:
    """The pickle's length, found by walking its opcodes with a stack of sizes instead of objects.

    Raises:
        CheckpointError: A memo index beyond the pickle's length, or a tuple of more than a million items.
        ValueError: No pickle.
    """
    stack: list[int] = []
    memo: dict[int, int] = {}
    position = 0
    for opcode, argument, place in pickletools.genops(data):
        position = place or 0
        index = argument if isinstance(argument, int) else 0
        if opcode.name in _PUT:
            if index > len(data):
                raise CheckpointError(f"its pickle has a memo index of {index}")
            memo[index] = stack[-1] if stack else 1
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = stack[-1] if stack else 1
        elif opcode.name in _GET:
            stack.append(memo.get(index, 1))
        elif opcode.name == "MARK":
            stack.append(_MARK)
        else:
            taken = _pop(stack, opcode)
            size = 1 + sum(taken) if opcode.name in _HASHABLE else 1
            if size > _MAX_ITEMS:
                raise CheckpointError(f"its pickle has a tuple of more than {_MAX_ITEMS} items")
            stack.extend([size] * len(opcode.stack_after))
    return position + 1  # the last opcode, STOP, is one byte


def _pop(stack: list[int], opcode: pickletools.OpcodeInfo) -> list[int]:
    """Takes off the stack what the opcode takes, down to the last mark where it takes that."""
    taken: list[int] = []
    before = list(opcode.stack_before)
    if pickletools.markobject in before:
        while stack and (top := stack.pop()) != _MARK:
            taken.append(top)
        before = before[: before.index(pickletools.markobject)]
    for _ in before:
        if stack:
            taken.append(stack.pop())
    return taken
