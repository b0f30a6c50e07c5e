"""Ways to spoil a file: bytes anywhere in it, or one place in a JSON value."""

from __future__ import annotations

import random
from typing import Any


def mutate(data: bytes, other: bytes, pieces: list[bytes], rng: random.Random) -> bytes:
    """``data`` after one to five random changes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        size = len(changed)
        at = int(rng.random() * size)
        match int(rng.random() * 8):
            case 0:
                changed[at] = int(rng.random() * 256)
            case 1:
                changed[at] ^= 1 << int(rng.random() * 8)
            case 2:
                changed[at:at] = rng.choice(pieces)
            case 3:
                del changed[at : at + 1 + int(rng.random() * 20)]
            case 4:
                source = int(rng.random() * size)
                changed[at:at] = changed[source : source + 1 + int(rng.random() * 40)]
            case 5:
                del changed[max(at, 1) :]
            case 6:
                source = int(rng.random() * len(other))
                changed[at:at] = other[source : source + 1 + int(rng.random() * 60)]
            case 7:
                changed[at:] = other[int(rng.random() * len(other)) :]
        if not changed:
            return b"."
    return bytes(changed)


ODD = [
    None, True, -1, 0, 1, 1.5, 2**31, 2**40, 2**63, 2**64, "", "F32", "F4", "C64", "U8", [], [0],
    [0, 4], [4, 0], [-4, 0], [0, 2**64], {}, "\x1b[31m", "a" * 600, [[[]]], "\ud800",
]  # fmt: skip


def spoil(value: Any, rng: random.Random) -> Any:
    """A JSON value with one place in it changed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            renamed = rng.choice(["\x1b]0;x\x07", "a\nb", "", "__metadata__", "w"])
            return {renamed if k == key else k: v for k, v in value.items()}
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: spoil(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.6:
        at = rng.randrange(len(value))
        return [*value[:at], spoil(value[at], rng), *value[at + 1 :]]
    return rng.choice(ODD)
