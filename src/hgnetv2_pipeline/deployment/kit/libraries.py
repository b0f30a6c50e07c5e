"""The two TensorRTs as Python modules: how each is imported, and what it says while it works."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_log = logging.getLogger(__name__)

Heard = deque[tuple[int, str]]
"""The library's latest errors and warnings, each with its severity (the gravest is 0)."""


class PlanError(RuntimeError):
    """TensorRT cannot build, load or run a plan; the message is one line."""


@dataclass(frozen=True)
class Library:
    """One of the two TensorRTs: the engine's name, its own, what to install, and its kind."""

    engine: str
    title: str
    packages: str
    portable: bool

    def load(self) -> Any:
        """Its Python module; PlanError where it cannot be imported."""
        try:
            if self.portable:
                import tensorrt_rtx_bindings as trt
            else:
                import tensorrt as trt
        except (ImportError, OSError) as error:  # OSError: a library of its own is missing
            reason = " ".join(str(error).split())
            raise PlanError(
                f"{self.title} cannot be imported ({reason}); pip install {self.packages}"
            ) from error
        return trt


TENSORRT = Library("tensorrt", "TensorRT", "tensorrt", portable=False)
TENSORRT_RTX = Library(
    "tensorrt-rtx",
    "TensorRT for RTX",
    "tensorrt-rtx-cu12-libs tensorrt-rtx-cu12-bindings",
    portable=True,
)
LIBRARIES = {library.engine: library for library in (TENSORRT, TENSORRT_RTX)}


@lru_cache
def listener(trt: Any) -> tuple[Any, Heard]:
    """The logger for a library, and what it hears; warnings go on to our own log.

    One for all the process, as the library asks: it is cleared where a new piece of work begins.
    """
    heard: Heard = deque(maxlen=200)

    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if int(severity) > int(trt.ILogger.WARNING):
                return
            line = " ".join(message.split())
            heard.append((int(severity), line))
            if int(severity) == int(trt.ILogger.WARNING):
                _log.warning("%s", line)

    return Listener(), heard


def gravest(heard: Heard) -> str:
    """The first of the gravest messages, as the end of a sentence: what follows is its echo."""
    return f": {min(heard, key=lambda entry: entry[0])[1]}" if heard else ""
