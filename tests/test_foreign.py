"""The boundary round files from outside: one line of the right kind, whatever was raised."""

from __future__ import annotations

import errno
import json

import pytest

from hgnetv2_pipeline.errors import DataError, DiskFullError, Interrupted, WeightsError
from hgnetv2_pipeline.foreign import foreign_file, parse_json


def nested(depth: int) -> int:
    return nested(depth + 1)


def raising(error: BaseException):
    def body() -> None:
        raise error

    return body


STRAYS = {
    "memory": (raising(MemoryError()), "not memory enough"),
    "depth": (lambda: nested(0), "nested too deep"),
    "attribute": (raising(AttributeError("no 'get'")), "no 'get'"),
    "overflow": (raising(OverflowError("too large")), "too large"),
    "silent": (raising(KeyError()), "KeyError"),
    "assertion": (raising(AssertionError("ours")), "ours"),
    "device": (raising(OSError(errno.EIO, "Input/output error")), "Input/output error"),
    "several": (raising(ExceptionGroup("two", [ValueError("a"), ValueError("b")])), "two"),
    "lines": (
        raising(RuntimeError("a\n\x1b[31mb\u202e\x9b" + "c" * 5_000)),
        r"a \\x1b\[31mb\\u202e",
    ),
    "text": (raising(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")), "0xff"),
}


@pytest.mark.parametrize("kind", [WeightsError, DataError])
@pytest.mark.parametrize("name", STRAYS)
def test_whatever_a_reader_raises_is_one_line_of_its_kind(name, kind):
    body, told = STRAYS[name]
    with (
        pytest.raises(kind, match=rf"^a\.bin cannot be read: .*{told}") as caught,
        foreign_file("a.bin", kind),
    ):
        body()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    assert caught.value.__cause__ is not None  # for --debug


@pytest.mark.parametrize(
    "error",
    [
        DataError("ours"),
        WeightsError("ours"),
        Interrupted("ours"),
        DiskFullError("ours"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        KeyboardInterrupt(),
        SystemExit(1),
    ],
)
def test_errors_of_ours_a_full_disk_and_interrupts_pass_unchanged(error):
    with pytest.raises(type(error)) as caught, foreign_file("a.bin", WeightsError):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 100_000, "nested deeper"),
        ('{"a":' * 70 + "1" + "}" * 70, "nested deeper"),
        ('{"a": 1, "\\u0061": 2}', "same key twice"),
        ('{"a": [{"b": 1, "b": 1}]}', "same key twice"),
        ("NaN", "the number NaN"),
        ("[-Infinity]", "the number -Infinity"),
        ("1e400", "the number 1e400"),
        ("9" * 5_000, "limit"),
        ('"' + "a" * (9 << 20) + '"', "characters of JSON"),
        ("", "Expecting value"),
    ],
)
def test_json_from_outside_is_plain_and_bounded(text, told):
    with pytest.raises(ValueError, match=told):
        parse_json(text)


@pytest.mark.parametrize("value", [{}, [1, 2.5, None, True, "]["], {"a": {"b": ["\\", "{"]}}, "x"])
def test_json_that_is_plain_is_read_as_it_is(value):
    assert parse_json(json.dumps(value)) == value
