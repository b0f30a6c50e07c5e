"""Spoiled files by the thousand, each read in a process of its own with little memory and time.

A format gives two functions at the top of a module that can be imported by name:

    def make(rng: random.Random) -> tuple[bytes, Any]
        one spoiled file, and whatever ``check`` needs to judge what is made of it
    def check(path: Path, known: Any) -> str
        read the file; a word for what became of it ("read", "some quarantined", ...)

``check`` may let an error of ours out: it carries an exit code, and counts as "refused" if it is
one line. Whatever else leaves it is a fault, an AssertionError of its own among them; so are more
memory or time than allowed, and the death of the process.

    report = run_mutations(make, count=2_000, seed=0, check=check)
    assert not report.faults, report
"""

from __future__ import annotations

import importlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Make = Callable[[random.Random], tuple[bytes, Any]]
Check = Callable[[Path, Any], str]

MEMORY = 1_500_000_000
SECONDS = 5.0
_WAITING = 12  # times ``SECONDS``, for what waits and uses no CPU: other work may slow a machine
_ENOUGH = 20  # faults after which nothing more is learnt
_LONGEST = 2_000  # characters of a refusal


@dataclass(frozen=True)
class Fault:
    """A case that did not end as it should; ``remade`` gives the file again."""

    case: int
    what: str


@dataclass
class Report:
    """What became of the cases, by the words of ``check``, and those that went wrong."""

    verdicts: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    slowest: float = 0.0
    """CPU seconds of the slowest case."""
    peak: int = 0
    """Bytes of memory in use at the worst moment, libraries included."""

    def __str__(self) -> str:
        told = "\n".join(f"case {fault.case}: {fault.what}" for fault in self.faults)
        return (
            f"{dict(self.verdicts)}, slowest {self.slowest:.2f} CPU s, "
            f"peak {self.peak / 1e6:.0f} MB, {len(self.faults)} faults\n{told}"
        )


def remade(make: Make, seed: int, case: int) -> tuple[bytes, Any]:
    """The file of a case, and what is known of it."""
    return make(random.Random(f"{seed}/{case}"))


def run_mutations(
    make: Make,
    *,
    count: int,
    seed: int,
    check: Check,
    name: str = "case.bin",
    memory: int = MEMORY,
    seconds: float = SECONDS,
) -> Report:
    """Make ``count`` files and have each read in a child process.

    Args:
        name: what each file is called, for readers that go by the ending.
        memory: bytes of address space (RLIMIT_AS) that a case may add to what the process holds
            once its libraries are loaded.
        seconds: CPU time a case may take; of time that only passes, twelve times as much.
    """
    report = Report()
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        at = 0
        while at < count and len(report.faults) < _ENOUGH:
            plan = {
                "make": _named(make), "check": _named(check), "first": at, "last": count,
                "seed": seed, "folder": folder, "name": name, "memory": memory, "seconds": seconds,
            }  # fmt: skip
            at = _one_child(plan, report)
    return report


def _named(function: Callable[..., Any]) -> list[str]:
    module, name = function.__module__, function.__qualname__
    assert "." not in name and module != "__main__", f"{module}.{name} cannot be imported by name"
    return [module, name]


def _one_child(plan: dict[str, Any], report: Report) -> int:
    """Run cases until the child ends, and return the number of the next."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(plan)],
        env=environment,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        check=False,
    )
    at = int(plan["first"])
    started = False
    for line in done.stdout.splitlines():
        told = json.loads(line)
        if "ready" in told:
            started = True
            continue
        at = told["case"] + 1
        report.slowest = max(report.slowest, told["cpu"])
        report.peak = max(report.peak, told["peak"])
        if "fault" in told:
            report.faults.append(Fault(told["case"], told["fault"]))
        else:
            report.verdicts[told["verdict"]] += 1
    assert started, f"the child did not start:\n{done.stderr[-4000:]}"
    if done.returncode:
        report.faults.append(Fault(at, _ending(done.returncode, plan, done.stderr)))
        at += 1
    return at


def _ending(code: int, plan: dict[str, Any], stderr: str) -> str:
    if code == -signal.SIGPROF:
        return f"not done after {plan['seconds']:g} CPU seconds"
    if code == -signal.SIGALRM:
        return f"waits: not done after {plan['seconds'] * _WAITING:g} seconds"
    return f"the process died with {code}: {stderr[-2000:]}"


def _child(plan: dict[str, Any]) -> None:
    make, check = (
        getattr(importlib.import_module(module), name)
        for module, name in (plan["make"], plan["check"])
    )
    out = os.dup(1)
    os.dup2(2, 1)  # what a reader prints is no answer of ours
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = held + plan["memory"]
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    path = Path(plan["folder"]) / plan["name"]
    _tell(out, {"ready": True})
    faults = 0
    for case in range(plan["first"], plan["last"]):
        content, known = remade(make, plan["seed"], case)
        path.unlink(missing_ok=True)  # a reader may remember a file by its inode
        path.write_bytes(content)
        told = {"case": case} | _judged(path, known, check, plan["seconds"])
        _tell(out, told)
        faults += "fault" in told
        if faults >= _ENOUGH:
            return


def _judged(path: Path, known: Any, check: Check, seconds: float) -> dict[str, Any]:
    told: dict[str, Any] = {}
    # Without handlers of ours these signals end the process, whatever it is doing.
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, seconds * _WAITING)
    began = resource.getrusage(resource.RUSAGE_SELF)
    try:
        told["verdict"] = check(path, known)
    except Exception as error:
        lines = str(error).splitlines()
        if not hasattr(error, "exit_code"):
            told["fault"] = traceback.format_exc()[-3000:]
        elif len(lines) != 1 or len(lines[0]) > _LONGEST:
            told["fault"] = f"{type(error).__name__} of {len(lines)} lines: {str(error)[:1000]!r}"
        else:
            told["verdict"] = "refused"
    ended = resource.getrusage(resource.RUSAGE_SELF)
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    spent = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    return told | {"cpu": round(spent, 4), "peak": ended.ru_maxrss * 1024}


def _tell(out: int, told: dict[str, Any]) -> None:
    os.write(out, json.dumps(told).encode() + b"\n")


if __name__ == "__main__":
    _child(json.loads(sys.argv[1]))
