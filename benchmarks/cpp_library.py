"""The C library by ctypes, for the tests and the benchmark that compare it with Python."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char, c_char_p, c_double, c_float, c_int, c_size_t, c_void_p
from pathlib import Path

import numpy as np


class _Image(ctypes.Structure):
    _fields_ = (("bytes", c_char_p), ("size", c_size_t))


class _Answer(ctypes.Structure):
    _fields_ = (("class_id", c_int), ("score", c_double), ("label", c_char_p))


class _Result(ctypes.Structure):
    _fields_ = (
        ("status", c_int),
        ("answers", POINTER(_Answer)),
        ("count", c_size_t),
        ("reason", c_char * 256),
    )


class _Options(ctypes.Structure):
    _fields_ = (
        ("engine", c_char_p),
        ("device", c_char_p),
        ("threads", c_int),
        ("batch_size", c_int),
    )


class Refused(Exception):
    """A status other than 0: ``args`` are the status and the reason."""


class View:
    """A preprocessing: of a folder, or of a model's."""

    def __init__(self, library: Library, handle: c_void_p) -> None:
        self._library, self._handle = library, handle
        height, width = c_size_t(), c_size_t()
        library.functions.hgnetv2_input_size(handle, byref(height), byref(width))
        self.size = height.value, width.value

    def pixels(self, content: bytes) -> np.ndarray:
        """uint8 [height, width, 3]."""
        return self._filled("hgnetv2_pixels", content, np.empty((*self.size, 3), np.uint8))

    def tensor(self, content: bytes) -> np.ndarray:
        """float32 [3, height, width]."""
        return self._filled("hgnetv2_tensor", content, np.empty((3, *self.size), np.float32))

    def _filled(self, name: str, content: bytes, into: np.ndarray) -> np.ndarray:
        image = _Image(content, len(content))
        self._library.call(name, self._handle, image, into.ctypes.data_as(c_void_p))
        return into


class Model:
    """An exported folder, opened."""

    def __init__(self, library: Library, handle: c_void_p) -> None:
        self._library, self._handle = library, handle
        self.classes = int(library.functions.hgnetv2_num_classes(handle))
        self.view = View(library, c_void_p(library.functions.hgnetv2_preprocess_of(handle)))

    def label(self, class_id: int) -> str | None:
        found = self._library.functions.hgnetv2_label(self._handle, c_size_t(class_id))
        return None if found is None else str(found.decode())

    def classify(self, contents: Sequence[bytes], topk: int) -> list[list[tuple[int, float]] | str]:
        """(class, score) of the best of each file, or the reason why there are none."""
        answers = [(_Answer * topk)() for _ in contents]
        images = (_Image * len(contents))(*(_Image(one, len(one)) for one in contents))
        results = (_Result * len(contents))(*(_Result(0, room) for room in answers))
        self._library.call(
            "hgnetv2_classify",
            self._handle,
            images,
            c_size_t(len(contents)),
            c_size_t(topk),
            results,
        )
        return [
            result.reason.decode()
            if result.status
            else [(a.class_id, a.score) for a in result.answers[: result.count]]
            for result in results
        ]

    def logits(self, images: np.ndarray) -> np.ndarray:
        """float32 [N, classes] of float32 [N, 3, height, width]."""
        into = np.empty((len(images), self.classes), np.float32)
        given = np.ascontiguousarray(images).ctypes.data_as(POINTER(c_float))
        self._library.call(
            "hgnetv2_logits",
            self._handle,
            given,
            c_size_t(len(images)),
            into.ctypes.data_as(c_void_p),
        )
        return into

    def close(self) -> None:
        self._library.functions.hgnetv2_close(self._handle)


class Library:
    """``libhgnetv2.so`` in a folder that CMake has built."""

    def __init__(self, build: Path) -> None:
        self.functions = ctypes.CDLL(str(build / "libhgnetv2.so"))
        self.functions.hgnetv2_error.restype = c_char_p
        self.functions.hgnetv2_engines.restype = c_char_p
        self.functions.hgnetv2_label.restype = c_char_p
        self.functions.hgnetv2_num_classes.restype = c_size_t
        self.functions.hgnetv2_preprocess_of.restype = c_void_p

    def call(self, name: str, *arguments: object) -> None:
        status = getattr(self.functions, name)(*arguments)
        if status:
            raise Refused(status, self.functions.hgnetv2_error().decode())

    @property
    def engines(self) -> list[str]:
        return str(self.functions.hgnetv2_engines().decode()).split()

    def open(
        self, path: Path, *, engine: str | None = None, threads: int = 0, batch_size: int = 0
    ) -> Model:
        options = _Options(engine and engine.encode(), None, threads, batch_size)
        handle = c_void_p()
        self.call("hgnetv2_open", str(path).encode(), byref(options), byref(handle))
        return Model(self, handle)

    def open_preprocess(self, path: Path) -> View:
        handle = c_void_p()
        self.call("hgnetv2_preprocess_open", str(path).encode(), byref(handle))
        return View(self, handle)
