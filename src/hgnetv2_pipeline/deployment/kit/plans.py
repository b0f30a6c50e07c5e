"""TensorRT plans: built from ONNX and kept beside a note of what they were built for.

One code path for TensorRT 10 and 11 and for TensorRT for RTX: networks are strongly typed, so the
precision is the ONNX file's and no builder flag changes it; TF32 alone is a flag, cleared for fp32.
The calls are those of the 11.4 bindings' documentation. A plan is native code: load only plans that
you built.

TensorRT for RTX differs where ``Library.portable`` is asked: it builds without a GPU, for compute
capabilities instead of the GPU at hand and without a timing cache, which would look for one; a plan
is finished on the GPU that loads it, within seconds that a runtime cache saves the next time; and
it records CUDA graphs itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.deployment.kit.libraries import Library, PlanError, gravest, listener

_log = logging.getLogger(__name__)

# Those of ``choices``, which does not travel with the kit; a test holds that they are the same.
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8")
TIMING_CACHE = "timing.cache"
CAPABILITIES = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""What TensorRT for RTX builds for by name."""
AMPERE_ON = "sm80 and later"
"""What it builds for unless others are named, in one plan."""
_LEFT = 3600  # seconds after which nobody writes a file any more


@dataclass(frozen=True)
class BatchProfile:
    """Batch sizes of a plan: the least, the one to be best at, the largest."""

    least: int = 1
    best: int = 1
    most: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.best <= self.most:
            raise PlanError(f"profile {self} must be 1 <= least <= best <= most")


@dataclass(frozen=True)
class PlanSpec:
    """What a plan is built for.

    ``gpu``: the name of the GPU; of a portable plan its compute capabilities, joined by ``+``, or
    ``AMPERE_ON``.
    """

    library: Library
    precision: str
    profile: BatchProfile
    gpu: str

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise PlanError(f"precision {self.precision!r} is none of {', '.join(PRECISIONS)}")
        unknown = [name for name in self.capabilities if name not in CAPABILITIES]
        if unknown:
            raise PlanError(
                f"{self.library.title} builds for no {', '.join(unknown)}; it knows "
                f"{', '.join(CAPABILITIES)}"
            )
        if not set(self.capabilities) <= set(capabilities_of(self.precision)):
            raise PlanError(
                f"{self.library.title} builds {self.precision} for no sm75 (Turing), which has "
                "fp16 alone (export.precisions=fp16, export.gpus)"
            )

    @property
    def capabilities(self) -> list[str]:
        """Those that a portable plan is built for."""
        named = self.library.portable and self.gpu != AMPERE_ON
        return self.gpu.split("+") if named else []

    def facts(self, onnx_sha256: str) -> dict[str, Any]:
        """All that a plan depends on: another GPU, version or profile is another plan."""
        return {
            "onnx_sha256": onnx_sha256,
            "library": self.library.engine,
            "version": self.library.load().__version__,
            "gpu": self.gpu,
            "profile": asdict(self.profile),
            "precision": self.precision,
        }


def capabilities_of(precision: str, *, embedding: bool = False) -> tuple[str, ...]:
    """Those that TensorRT for RTX builds a network of this precision for.

    For Turing (sm75) version 1.7 has no matrix product in float32, which fp32 and int8 files end
    with, and no bf16; nor has it the fp16 one of a file that gives embeddings too.
    """
    return CAPABILITIES if precision == "fp16" and not embedding else CAPABILITIES[1:]


def capability(gpu: str) -> str:
    """What a portable plan is built for on a GPU of this name.

    >>> capability("NVIDIA GeForce RTX 4090 (sm_89)"), capability("NVIDIA H200 (sm_90)")
    ('sm89', 'sm80 and later')
    """
    found = re.search(r"\(sm_(\d+)\)$", gpu)
    name = f"sm{found[1]}" if found else ""
    return name if name in CAPABILITIES else AMPERE_ON


def provide_plan(onnx: Path, folder: Path, spec: PlanSpec) -> Path:
    """The plan of ``onnx`` for ``spec`` in ``folder``, built if it is not there.

    A plan that does not match its note is built again. ``timing.cache`` makes the next build
    faster.
    """
    facts = spec.facts(_sha256(onnx.read_bytes()))
    key = _sha256(json.dumps(facts, sort_keys=True).encode())
    plan = folder / f"{onnx.stem}-{spec.precision}-{key[:16]}.plan"
    if is_plan_of(plan, facts):
        return plan
    _log.info(
        "building %s with %s %s for %s%s",
        plan.name, spec.library.title, facts["version"], spec.gpu,
        "" if spec.library.portable else "; minutes",
    )  # fmt: skip
    save_plan(onnx, plan, spec, timing_cache=folder / TIMING_CACHE)
    return plan


def read_note(plan: Path) -> dict[str, Any]:
    """What the note beside a plan says; empty where there is none, or none of ours."""
    try:
        note = json.loads(plan.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}


def is_plan_of(plan: Path, facts: dict[str, Any]) -> bool:
    """Whether ``plan`` is there, whole, and by its note built for just these ``facts``."""
    note = read_note(plan)
    return (
        plan.is_file()
        and {name: note.get(name) for name in facts} == facts
        and note.get("plan_sha256") == _sha256(plan.read_bytes())
    )


def save_plan(
    onnx: Path, plan: Path, spec: PlanSpec, *, timing_cache: Path | None = None
) -> dict[str, Any]:
    """Build ``onnx`` as ``plan``, with its note beside it (``<name>.json``), which is returned.

    The note says what the plan was built for, its size and SHA-256, and what the library warned of.
    Each file is whole or absent, the note written last.
    """
    data = onnx.read_bytes()
    plan.parent.mkdir(parents=True, exist_ok=True)
    timings = timing_cache.read_bytes() if timing_cache and timing_cache.is_file() else b""
    built = build_plan(data, spec, timing_cache=timings)
    if timing_cache is not None and built.timings:
        write_whole(timing_cache, built.timings)
    write_whole(plan, built.plan)
    note = {
        **spec.facts(_sha256(data)),
        "onnx": onnx.name,
        "plan_sha256": _sha256(built.plan),
        "bytes": len(built.plan),
        "warnings": built.warnings,
    }
    text = json.dumps(note, indent=2, sort_keys=True) + "\n"
    write_whole(plan.with_suffix(".json"), text.encode())
    return note


@dataclass(frozen=True)
class BuiltPlan:
    """A serialised plan, the timing cache as it now is, and what the library warned of."""

    plan: bytes
    timings: bytes
    warnings: list[str]


def build_plan(
    onnx: bytes, spec: PlanSpec, *, workspace_bytes: int = 1 << 30, timing_cache: bytes = b""
) -> BuiltPlan:
    """Build the ONNX model for ``spec``; PlanError says what the library does not take."""
    library, trt = spec.library, spec.library.load()
    logger, heard = listener(trt)
    heard.clear()
    builder = trt.Builder(logger)
    network = parse_network(trt, builder, onnx, logger, library.title)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    if spec.precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and 10 bits of mantissa only
    given, profile = network.get_input(0), spec.profile
    shapes = [
        (size, *tuple(given.shape)[1:]) for size in (profile.least, profile.best, profile.most)
    ]
    sizes = builder.create_optimization_profile()
    sizes.set_shape(given.name, *shapes)
    if config.add_optimization_profile(sizes) < 0:
        raise PlanError(
            f"{library.title} does not take the profile {profile.least}..{profile.most} for "
            f"{given.name}{gravest(heard)}"
        )
    if library.portable:
        _set_capabilities(trt, config, spec.capabilities)
    else:
        cache = config.create_timing_cache(timing_cache)
        # A cache of another GPU or version is refused, and then an empty one is filled.
        if not config.set_timing_cache(cache, False):
            config.set_timing_cache(config.create_timing_cache(b""), False)
    with _interrupts_later():
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise PlanError(f"{library.title} could not build a plan{gravest(heard)}")
    timings = b"" if library.portable else bytes(config.get_timing_cache().serialize())
    return BuiltPlan(bytes(plan), timings, [message for _, message in heard])


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Raise what Ctrl-C asks for once the library is done.

    Raised before, it would reach the logger, which the library calls while it builds, and whose
    exceptions it drops.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


def parse_network(trt: Any, builder: Any, onnx: bytes, logger: Any, title: str) -> Any:
    """The network that the parser makes of an ONNX model."""
    # Asked for explicitly by version 10; version 11 knows nothing else and ignores the flag.
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strongly_typed)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        reasons = [str(parser.get_error(number)) for number in range(parser.num_errors)]
        words = " ".join("; ".join(reasons).split())
        raise PlanError(f"{title} cannot read the ONNX model: {words}")
    if not network.num_inputs or not network.num_outputs:
        raise PlanError(f"{title} cannot read the ONNX model: it has no inputs or no outputs")
    return network


def _set_capabilities(trt: Any, config: Any, names: list[str]) -> None:
    if not names:  # its own choice: 8.0 and later
        return
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(getattr(trt.ComputeCapability, name.upper()), index)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """``data`` as ``path``, whole or not at all; what killed processes left of it goes."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        if time.time() - left.stat().st_mtime > _LEFT:
            left.unlink(missing_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
