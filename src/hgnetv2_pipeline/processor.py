"""The processors of this machine: how many of them this process may use, what they compute in, and
the memory that a process keeps for them.

A batch system, a container or ``taskset`` may leave a process a few of a big machine's. 8-bit
products summed without a dot-product instruction are summed in 16 bits, which saturate; bf16
without units for it is computed piecemeal, ten times slower than float32. So all of this is asked
here before it is chosen.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from hgnetv2_pipeline.errors import ParameterError

MOST_THREADS = 1024
"""More threads of one process, or processes side by side, are a slip of the finger."""
# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def check_threads(threads: int) -> None:
    """ParameterError unless ``threads`` is a count, or 0 for the choice of a library."""
    if not 0 <= threads <= MOST_THREADS:
        raise ParameterError(
            f"threads={threads}; give a count up to {MOST_THREADS:,}, or 0 for the library's choice"
        )


_CPUINFO = Path("/proc/cpuinfo")
# Our name -> what Linux calls it on x86 ("flags") and on ARM ("Features").
_LINUX = {
    "avx2": "avx2",
    "avx512": "avx512f",
    "avx_vnni": "avx_vnni",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
    "neon": "asimd",
    "neon_dotprod": "asimddp",
    "neon_bf16": "bf16",
}
_MACOS = {
    "avx2": "hw.optional.avx2_0",
    "avx512": "hw.optional.avx512f",
    "neon": "hw.optional.arm.AdvSIMD",
    "neon_dotprod": "hw.optional.arm.FEAT_DotProd",
    "neon_bf16": "hw.optional.arm.FEAT_BF16",
}
FEATURES = frozenset(_LINUX)
"""The names that ``features`` gives."""
_INT8_EXACT = frozenset(("avx_vnni", "avx512_vnni", "amx_int8", "neon_dotprod", "neon"))
_BF16 = frozenset(("avx512_bf16", "amx_bf16", "neon_bf16"))

_CAPS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
# What each cap of oneDNN leaves. It computes PyTorch's and OpenVINO's convolutions on x86.
_UP_TO: dict[str, frozenset[str]] = {"SSE41": frozenset(), "AVX": frozenset()}
_UP_TO["AVX2"] = frozenset(("avx2",))
_UP_TO["AVX2_VNNI"] = _UP_TO["AVX2_VNNI_2"] = _UP_TO["AVX2"] | {"avx_vnni"}
_UP_TO["AVX512_CORE"] = _UP_TO["AVX2_VNNI"] | {"avx512"}
_UP_TO["AVX512_CORE_VNNI"] = _UP_TO["AVX512_CORE"] | {"avx512_vnni"}
_UP_TO["AVX512_CORE_BF16"] = _UP_TO["AVX512_CORE_VNNI"] | {"avx512_bf16"}
_UP_TO["AVX512_CORE_FP16"] = _UP_TO["AVX10_1_512"] = _UP_TO["AVX512_CORE_BF16"]


def available_cpus(root: Path = Path("/")) -> int:
    """The processors of this process: those of its affinity (``taskset``, a cpuset, ``srun -c``),
    and no more than its cgroup's share of time (``docker --cpus``, a Kubernetes limit), rounded up.

    At least 1. ``root`` is where ``proc`` and ``sys`` are.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, min([count, *(math.ceil(share) for share in _shares(root))]))


def restricted_cpus() -> int | None:
    """``available_cpus`` where they are fewer than the machine has, else None.

    For libraries that count the machine's by themselves, and rightly where it is all ours.
    """
    count = available_cpus()
    return count if count < (os.cpu_count() or 1) else None


def _shares(root: Path) -> Iterator[float]:
    """CPU seconds per second that the cgroups of this process, and those around them, may use."""
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                yield from _limits(root / "sys/fs/cgroup", path, _quota_v2)
            elif "cpu" in controllers.split(","):
                for name in {controllers, "cpu"}:
                    yield from _limits(root / "sys/fs/cgroup" / name, path, _quota_v1)


def _limits(mount: Path, path: str, quota: Callable[[Path], tuple[int, int]]) -> Iterator[float]:
    # A container may see its own group as the root of the mount, whatever its path says.
    inner = mount / path.strip("/")
    for folder in (inner, *inner.parents):
        if folder.is_relative_to(mount) and ".." not in folder.parts:
            with suppress(OSError, ValueError):
                allowed, period = quota(folder)
                if allowed > 0 and period > 0:
                    yield allowed / period


def _quota_v2(folder: Path) -> tuple[int, int]:
    """Microseconds allowed of microseconds; ValueError for ``max``."""
    allowed, period = (folder / "cpu.max").read_text().split()
    return int(allowed), int(period)


def _quota_v1(folder: Path) -> tuple[int, int]:
    """The same; -1 allowed is no limit."""
    allowed = int((folder / "cpu.cfs_quota_us").read_text())
    return allowed, int((folder / "cpu.cfs_period_us").read_text())


def features() -> frozenset[str]:
    """Those of ``FEATURES`` that the processor has, less what oneDNN's caps take away.

    The caps are the environment variables ``ONEDNN_MAX_CPU_ISA`` and ``DNNL_MAX_CPU_ISA``: a
    machine that is set to compute as an older one is treated as one. Empty where the system does
    not say.
    """
    cap = next((os.environ[name].upper() for name in _CAPS if os.environ.get(name)), "")
    found = _reported()
    return found & _UP_TO[cap] if cap in _UP_TO else found


def sums_int8_exactly() -> bool | None:
    """Whether 8-bit products are summed without saturating; None: not known.

    x86 without VNNI or AMX adds pairs of them in 16 bits, where they saturate. NEON without its dot
    product widens each first, which is slower and right.
    """
    return _has_any(_INT8_EXACT)


def computes_bf16() -> bool | None:
    """Whether the processor multiplies in bf16; None: not known."""
    return _has_any(_BF16)


def cpu_name() -> str:
    """The processor's name as Linux gives it, else what Python knows."""
    return cpu_field("model name") or platform.processor() or platform.machine()


def describe() -> str:
    """Name and instruction sets, as a record of a measurement needs them.

    For example ``AMD EPYC (avx2; no bf16, no exact 8-bit sums)``.
    """
    missing = [
        f"no {what}"
        for what, has in (("bf16", computes_bf16()), ("exact 8-bit sums", sums_int8_exactly()))
        if has is False
    ]
    sets = ", ".join(sorted(features())) or "instruction sets not reported"
    return f"{cpu_name()} ({sets}{'; ' if missing else ''}{', '.join(missing)})"


def cpu_field(name: str) -> str:
    """The first processor's entry ``name`` of /proc/cpuinfo; empty where there is none."""
    for line in _cpuinfo().partition("\n\n")[0].splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == name:
            return value.strip()
    return ""


def _has_any(wanted: frozenset[str]) -> bool | None:
    found = features()
    if found & wanted:
        return True
    return False if _reported() else None


@cache
def _reported() -> frozenset[str]:
    if platform.system() == "Darwin":
        return frozenset(name for name, key in _MACOS.items() if _sysctl(key) == "1")
    words = {*cpu_field("flags").split(), *cpu_field("Features").split()}
    return frozenset(name for name, flag in _LINUX.items() if flag in words)


def _cpuinfo() -> str:
    try:
        return _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return ""


def _sysctl(key: str) -> str:
    try:
        done = subprocess.run(
            ["/usr/sbin/sysctl", "-n", key], capture_output=True, text=True, check=False, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def slow_precision(precision: str, device: str = "cpu") -> str:
    """Why ``precision`` takes longer than float32 on a ``device`` of that type, in words.

    Empty where it does not, as on a GPU, or where the system does not say. Without units for bf16 a
    training of B0 went through 14 images a CPU-second instead of float32's 150 (an AMD EPYC with
    AVX2 alone).
    """
    if device != "cpu":
        return ""
    if precision == "bf16" and computes_bf16() is False:
        return "without bf16 units this processor takes several times as long in it as in float32"
    if precision == "fp16":
        return "fp16 is for GPUs; a processor takes longer in it than in float32"
    return ""


def keep_memory() -> bool:
    """Let the C library keep freed memory for the next batch; whether it is glibc and does.

    By default glibc returns blocks of some megabytes, which activations are, to the kernel at once,
    and the next step waits for the same pages to be cleared: measured in docs/results/training.md.
    For the whole process from here on; processes that it forks inherit it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30) and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))
