"""What the machine gives and what it refuses: processors, disks, rights, signals.

Rows of the fault table: C03, C04, C05, G02, P01, X05.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from hgnetv2_pipeline import durable, exits, processor, stopping
from hgnetv2_pipeline.commands.main import main
from hgnetv2_pipeline.data import patterns
from hgnetv2_pipeline.errors import DataError, DiskFullError, ParameterError
from hgnetv2_pipeline.stopping import stop_on_signal
from project_copies import ROOT, run_here
from small_disk import on_own_disk

# --- processors -----------------------------------------------------------------------------------


def machine(root: Path, own: str, limits: dict[str, str]) -> Path:
    """A tree of ``proc`` and ``sys``: the cgroups of this process, and what is in their files."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(own)
    for path, text in limits.items():
        (root / "sys/fs/cgroup" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "sys/fs/cgroup" / path).write_text(text)
    return root


V1 = "4:memory:/a\n3:cpu,cpuacct:/docker/ab\n1:name=systemd:/a\n0::/\n"


@pytest.mark.parametrize(
    ("own", "limits", "share"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/\n", {"cpu.max": "300000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),
        # The group around this one is the tighter, or the looser.
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, 2),
        ("0::/a/b\n", {"a/b/cpu.max": "100000 50000", "a/cpu.max": "max 100000"}, 2),
        # A container's own path, seen from inside as the root.
        ("0::/kubepods/pod1\n", {"cpu.max": "150000 100000"}, 2),
        ("0::/../..\n", {"cpu.max": "150000 100000"}, 2),
        (V1, {"cpu/docker/ab/cpu.cfs_quota_us": "-1",
              "cpu/docker/ab/cpu.cfs_period_us": "100000"}, math.inf),
        (V1, {"cpu/docker/ab/cpu.cfs_quota_us": "400000",
              "cpu/docker/ab/cpu.cfs_period_us": "100000"}, 4),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "50000",
              "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 1),
        ("0::/\n", {"cpu.max": "nonsense"}, math.inf),
        ("no cgroup at all\n", {}, math.inf),
    ],
)  # fmt: skip
@pytest.mark.parametrize("affinity", [1, 3, 64])
def test_the_processors_of_a_process_are_those_of_its_affinity_and_its_share_of_time(
    own: str, limits: dict[str, str], share: float, affinity: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)))
    assert processor.available_cpus(machine(tmp_path, own, limits)) == min(affinity, share)


def test_a_missing_proc_leaves_the_affinity(tmp_path: Path) -> None:
    assert processor.available_cpus(tmp_path) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("asked", [None, 5])
def test_torch_follows_the_processors_of_the_process_unless_told(
    asked: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from hgnetv2_pipeline.training import run

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(run, "restricted_cpus", lambda: 3)
    with run.torch_settings(torch.device("cpu"), asked):
        assert torch.get_num_threads() == (asked or 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    with run.torch_settings(torch.device("cpu"), None):
        assert torch.get_num_threads() == before, "whoever started it has given it its part"


def test_nothing_else_counts_the_processors_of_the_machine() -> None:
    source = Path(processor.__file__).parent
    counting = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if re.search(r"cpu_count\(|sched_getaffinity\(", path.read_text(encoding="utf-8"))
    }
    assert counting == {"processor.py"}


# --- upper limits ---------------------------------------------------------------------------------


def _numbers(values: Any, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where whole numbers stand in nested parameters."""
    if isinstance(values, dict):
        return [place for key, value in values.items() for place in _numbers(value, (*at, key))]
    return [at] if type(values) is int else []


def test_every_whole_number_has_an_upper_limit() -> None:
    """G02: a slip of the finger is refused in one line, instead of being at work for ever."""
    from hgnetv2_pipeline.project.config_loader import ProjectConfigLoader
    from hgnetv2_pipeline.project.params import validate

    conf = Path(__file__).parents[1] / "conf"
    loader = ProjectConfigLoader(
        str(conf), base_env="base", default_run_env="sample",
        merge_strategy={"parameters": "soft", "globals": "soft"},
    )  # fmt: skip
    params = {key: value for key, value in loader["parameters"].items() if key != "this_run"}
    places = [place for place in _numbers(params) if place[-1] != "seed"]
    assert len(places) > 60
    accepted = []
    for place in places:
        changed = json.loads(json.dumps(params))
        inner = changed
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = 10**18
        try:
            validate(changed, environment="sample")
        except ParameterError as refused:
            assert "\n" not in str(refused)
        else:
            accepted.append(".".join(place))
    assert accepted == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "--threads", 100_000), ("predict", "--threads", -1),
        ("predict", "--batch-size", 10**12), ("benchmark", "--runs", 10**12),
        ("benchmark", "--batch-sizes", "1,100000000"), ("benchmark", "--warmup", 10**12),
    ],
    ids=str,
)  # fmt: skip
def test_a_senseless_number_of_a_command_is_refused(
    arguments: tuple[object, ...], tmp_path: Path
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"")
    command, *options = map(str, arguments)
    given = ["--model", str(model), "x.jpg"] if command == "predict" else [str(model)]
    done = CliRunner().invoke(main, [command, *options, *given])
    assert done.exit_code in (2, 4), done.output  # an empty model is told first
    if done.exit_code == 4:
        assert "batch" in arguments[1]


def test_an_expression_that_would_take_years_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "SECONDS_A_KEY", 0.05)
    before = signal.getsignal(signal.SIGALRM)
    keys = ["cat.jpg", "a" * 60 + "!"]
    with pytest.raises(ParameterError, match="some.where: .* takes longer than 0.05 s on 'aaa"):
        patterns.find_matches(r"(a+)+$", keys, "some.where")
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    found = patterns.find_matches(r"(a)t", keys, "some.where")
    assert [match and match[1] for match in found] == ["a", None]


@pytest.mark.parametrize("pattern", ["(", "[", "(?P<a", "a{99999999999}", "x" * 2000, r"\1"])
def test_what_is_no_expression_is_refused_before_anything_is_made(pattern: str) -> None:
    from hgnetv2_pipeline.project.params import DeduplicateParams, SplitParams

    for model, values in (
        (SplitParams, {"val": 0.1, "test": 0, "groups": None, "near_duplicates": False,
                       "group_pattern": pattern}),
        (DeduplicateParams, {"channels": "name", "name_pattern": pattern, "views": 1,
                             "auto_max": 1, "verify_max": 2, "verify_budget": None,
                             "feature_min": 0.9, "strict": False}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="is no regular expression|are allowed"):
            model(**values)


# --- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"])
def test_a_signal_asks_for_a_stop(name: str, ignored: bool) -> None:
    """P01. SIGUSR1 is SLURM's ``--signal=USR1@90``; who ignores one from outside is obeyed."""
    number = signal.Signals[name]
    before = signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
    optional = name in ("SIGUSR1", "SIGHUP")
    try:
        with stop_on_signal() as stop:
            os.kill(os.getpid(), number)
            assert bool(stop) is not (ignored and optional)
            assert (number in stopping.signals()) is not (ignored and optional)
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"])
def test_a_signal_between_trainings_ends_kedro_run_as_one_that_goes_on(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P01. Nobody takes it for a fault of the image that is just decoded; a forked process dies."""
    from kedro.framework.startup import bootstrap_project

    bootstrap_project(ROOT)
    monkeypatch.chdir(ROOT)
    number = signal.Signals[name]
    before = signal.signal(number, signal.SIG_DFL)

    def work(**options: object) -> None:
        if not (child := os.fork()):
            os.kill(os.getpid(), number)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -number
        with suppress(Exception):
            os.kill(os.getpid(), number)

    monkeypatch.setattr("hgnetv2_pipeline.cli.kedro_run.callback", work)
    try:
        assert run_here("--params", "run=x") == (75, f"stopped by {name}; the same command goes on")
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


# --- disks ----------------------------------------------------------------------------------------


def _sqlite() -> None:
    with sqlite3.connect(":memory:") as base:
        base.execute("pragma page_size = 512")
        base.execute("create table t (x)")
        base.execute("pragma max_page_count = 2")
        base.execute("insert into t values (zeroblob(100000))")


def _numpy(path: str = "/dev/full") -> None:
    with open(path, "wb", buffering=0) as file:  # noqa: PTH123
        np.zeros(1_000_000).tofile(file)


def _wrapped() -> None:
    try:
        raise OSError(errno.ENOSPC, "No space left on device", "/some/where")
    except OSError as error:
        raise RuntimeError("unexpected pos 64 vs 0") from error


def _says(words: str) -> Callable[[], None]:
    def act() -> None:
        raise RuntimeError(words)

    return act


def _fails(number: int, name: str | None) -> Callable[[], None]:
    def act() -> None:
        raise OSError(number, os.strerror(number), name)

    return act


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (_fails(errno.ENOSPC, None), "disk full"),
        (_fails(errno.ENOSPC, "a\nb"), r"disk full: a\\nb"),
        (_fails(errno.EDQUOT, "a"), "disk quota used up: a"),
        (_sqlite, "disk full: database or disk is full"),
        (_numpy, "disk full"),
        (_wrapped, "disk full: /some/where"),
        (_says("I/O error: No space left on device (os error 28)"), "disk full"),
        (_says("[Errno 122] Disk quota exceeded"), "disk quota used up"),
    ],
    ids=["number", "file", "quota", "sqlite", "numpy", "wrapped", "safetensors", "words"],
)
def test_a_full_disk_is_recognised_whoever_says_it(
    act: Callable[[], None], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C03, C04: exit code 28 and one line, at every door."""
    full = type("usage", (), {"free": 100})
    monkeypatch.setattr(exits.shutil, "disk_usage", lambda _: full)
    with pytest.raises(Exception) as raised:  # noqa: PT011 - of any kind, that is the point
        act()
    code, told = exits.explain(raised.value, debug="x")
    assert code == 28
    assert re.match(says, told), told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("act", "code", "says"),
    [
        (_fails(errno.EROFS, "data/x"), 2, "Read-only file system: data/x; make it writable"),
        (_fails(errno.EACCES, "data/x"), 2, "Permission denied: data/x; give yourself the right"),
        (_fails(errno.ENAMETOOLONG, "x"), 2, "File name too long: x; give .* a shorter name"),
        (_fails(errno.ENOENT, "x"), 2, "No such file or directory: x$"),
        (_fails(errno.EIO, "x"), 1, "OSError: .*Input/output error: 'x' .x shows where.$"),
        (_says("1000000 requested and 36848 written"), 1, "RuntimeError: 1000000 requested"),
        (_says("two\nlines"), 1, "RuntimeError: two lines"),
    ],
)
def test_what_only_the_caller_can_mend_is_told_with_its_remedy(
    act: Callable[[], None], code: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C05. A short write with room left is no full disk."""
    room = type("usage", (), {"free": 1 << 40})
    monkeypatch.setattr(exits.shutil, "disk_usage", lambda _: room)
    with pytest.raises(Exception) as raised:  # noqa: PT011
        act()
    found, told = exits.explain(raised.value, debug="x")
    assert (found, bool(re.match(says, told))) == (code, True), told


def test_an_error_looks_through_what_is_wrapped_round_it_and_round_in_circles() -> None:
    first, second = DataError("the image"), RuntimeError("a node failed")
    second.__cause__, first.__context__ = first, second
    assert exits.explain(second, debug="x") == (3, "the image")
    assert exits.full_disk(second) is None


def _program(*arguments: object) -> list[str]:
    """``hgnetv2`` as a process of its own."""
    call = "import sys; from hgnetv2_pipeline.commands.main import main; main(sys.argv[1:])"
    return [sys.executable, "-c", call, *map(str, arguments)]


def test_standard_output_on_a_full_disk_is_exit_28_and_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            _program("models"), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 28
    assert done.stderr.strip().splitlines() == ["disk full: standard output; free some and go on"]


@pytest.mark.parametrize(("option", "library"), [("--sheet", "pandas"), ("--out", "pyarrow")])
def test_what_an_option_lacks_is_told_before_the_model_is_read(
    option: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    out = tmp_path / "x.parquet"
    done = CliRunner().invoke(main, ["predict", "--model", "absent.onnx", option, str(out), "x"])
    assert done.exit_code == 2
    assert re.search(f"needs {library}, which is not installed", done.stderr)
    monkeypatch.delitem(sys.modules, library)
    done = CliRunner().invoke(main, ["predict", "--model", "absent.onnx", "--out", ".",
                                     "--format", "csv", "x"])  # fmt: skip
    assert done.exit_code == 2
    assert "--out . is a folder; name a file" in done.stderr


DISKS = """
from hgnetv2_pipeline.durable import require_writable, write_text
from hgnetv2_pipeline.data.quarantine import Ledger

root = Path(sys.argv[1])

def told(what, act):
    try:
        act()
        print(what, "0 ok")
    except Exception as error:
        print(what, getattr(error, "exit_code", 1), error)

mount(root / "small", "size=64k")
mount(root / "names", "size=1m,nr_inodes=2")
mount(root / "shut", "size=1m")
write_text(root / "shut" / "old.txt", "old")
read_only(root / "shut")
(root / "names" / "one").touch()
for name in ("small", "names", "shut"):
    if name == "small":
        fill(root / name, 0)
    told(f"{name}:probe", lambda: require_writable(root / name / "any", "data/"))
    told(f"{name}:text", lambda: write_text(root / name / "new.txt", "x" * 5000))
    ledger = Ledger(2, 1.0)
    ledger.quarantine("a.jpg", "cut short")
    told(f"{name}:quarantine", lambda: ledger.write(root / name / "q.csv"))
    print(f"{name}:left", sorted(path.name for path in (root / name).iterdir()))
told("long:probe", lambda: require_writable(root / "/".join(["d" * 200] * 20) / "any", "data/"))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts disks of its own")
def test_a_full_a_crowded_and_a_shut_disk_are_told_and_nothing_is_left_behind(
    tmp_path: Path,
) -> None:
    """C04 (quarantine) and C05: no room, no inodes, read-only, a path too long."""
    told = dict(line.split(" ", 1) for line in on_own_disk(DISKS, tmp_path).splitlines())
    for name in ("small", "names"):
        for what in ("probe", "text", "quarantine"):
            assert told[f"{name}:{what}"].startswith("28 "), told
            assert "disk full" in told[f"{name}:{what}"]
    assert re.match(r"2 data/: nothing can be written .*Read-only.*; make it", told["shut:probe"])
    assert told["shut:text"].startswith("1 [Errno 30]")
    assert re.match(r"2 data/: nothing can be written to .*too long.*shorter", told["long:probe"])
    assert told["small:left"] == "['.filler']"
    assert told["names:left"] == "['one']"
    assert told["shut:left"] == "['old.txt']"


INGESTION = """
import json, os
from kedro.framework.startup import bootstrap_project
from project_copies import ROOT, run_here
from hgnetv2_pipeline.commands.init import write_environment

project = Path(sys.argv[1])
os.chdir(project)
bootstrap_project(project)
write_environment(
    project, "mine", labelled=project / "my images", pool=None, test=None, variant=None
)
mount(project / "data", "size=4m")

def files():
    found = sorted(p for p in (project / "data").rglob("*") if p.is_file())
    names = [p.relative_to(project / "data").as_posix() for p in found]
    return [name for name in names if ".filler" not in name and ".hashes" not in name]

told = []
for free in map(int, sys.argv[2:]):
    filler = fill(project / "data", free)
    code, line = run_here("--env", "mine", "--pipeline", "ingestion")
    filler.unlink()
    told.append([free, code, line, files()])
code, line = run_here("--env", "mine", "--pipeline", "ingestion")
told.append(["all", code, line, files()])
read_only(project / "data")
code, line = run_here("--env", "mine", "--pipeline", "ingestion", "--params", "redo=ingestion")
told.append(["shut", code, line, files()])
print("TOLD" + json.dumps(told))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a disk of its own")
@pytest.mark.parametrize(
    "free", [(0,), pytest.param((4096, 8192, 24576, 65536), marks=pytest.mark.slow)], ids=len
)
def test_ingestion_on_a_full_disk_ends_with_28_and_the_next_run_finishes(
    free: tuple[int, ...], tmp_path: Path
) -> None:
    """C04, C05: no half-written file has a final name; a shut disk is refused before the start."""
    from own_tree import write_classes
    from project_copies import copy_project

    project = copy_project(tmp_path / "project")
    write_classes(project / "my images", ("a", "b"))
    out = on_own_disk(INGESTION, project, *free)
    told = json.loads(out[out.index("TOLD") + 4 :])
    *full, (_, code, line, made), (_, shut, why, still) = told
    assert (code, line) == (0, ""), told
    assert full[0][1] == 28, told
    for left_free, code, line, left in full:
        assert code in (0, 28), (left_free, line)
        assert code == 0 or line.startswith("disk full") or "disk full" in line
        # What has a final name is part of a result that is whole: its manifest is there.
        folders = {Path(name).parts[0] for name in left}
        manifests = {Path(name).parts[0] for name in left if "manifest" in name}
        assert folders == manifests, (left_free, left)
    assert shut == 2
    assert "Read-only file system" in why
    assert still == made


CHAIN = """
import hashlib, json, os
from kedro.framework.startup import bootstrap_project
from project_copies import ROOT, run_here

project = Path(sys.argv[1])
os.chdir(project)
bootstrap_project(project)
mount(project / "data", "size=700m")
SMALL = (
    "train_teacher.recipe.steps=2,train_teacher.gate.action=warn,train_teacher.jobs=1,"
    "ssld_stage1.steps=2,ssld_stage2.steps=2,comparison.supervised_seeds=2,"
    "comparison.equal_steps_seeds=,comparison.unmined_seeds=,comparison.stage1_seeds=,"
    "comparison.jobs=1,latency.runs=2,latency.warmup=0,latency.turns=0,latency.cold_starts=0,"
    "latency.beside="
)

def files():
    # What is under a name that begins with a dot is no result yet, nor is what the mark of
    # unfinished work is beside; logs grow.
    return {
        path.relative_to(project).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((project / "data").rglob("*"))
        if path.is_file() and path.suffix != ".log" and "specs" not in path.parts
        and path.name != "in_progress.json"
        and not any(part.startswith(".") for part in path.parts)
    }

for stage in sys.argv[2:]:
    words = ("--pipeline", stage, "--tags", stage, "--params", SMALL)
    before = files()
    filler = fill(project / "data", 8192)
    full = run_here(*words)
    filler.unlink()
    after = files()
    freed = run_here(*words)
    end = files()
    new = {name: value for name, value in after.items() if before.get(name) != value}
    told = {
        "stage": stage, "full": full, "freed": freed,
        "lost": sorted(set(before) - set(after)),
        "half": sorted(name for name, value in new.items() if end.get(name) != value),
    }
    print("TOLD" + json.dumps(told), flush=True)
"""
STAGES = ("ingestion", "import_weights", "train_teacher", "mining", "ssld_stage1", "ssld_stage2",
          "comparison", "best", "evaluation", "export", "latency", "prediction",
          "reporting")  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a disk of its own")
def test_every_stage_of_the_chain_on_a_full_disk_ends_with_28_and_the_next_run_finishes(
    tmp_path: Path,
) -> None:
    """C03, C04: nothing half-written has a final name, and nothing that was there is lost."""
    from project_copies import copy_project

    out = on_own_disk(CHAIN, copy_project(tmp_path / "project"), *STAGES, timeout=3000)
    told = [json.loads(line[4:]) for line in out.splitlines() if line.startswith("TOLD")]
    assert [step["stage"] for step in told] == [*STAGES]
    for step in told:
        assert step["full"][0] == 28, step
        assert step["freed"] == [0, ""], step
        assert step["lost"] == step["half"] == [], step


LOGS = """
from hgnetv2_pipeline.processes.side_by_side import run_side_by_side

root = Path(sys.argv[1])
mount(root / "logs", "size=64k")
fill(root / "logs", 0)
run_side_by_side("some_job", [root / "spec.json"], jobs=1, threads=1, logs=root / "logs")
print((root / "spec.out").read_text(), (root / "logs" / "spec.log").stat().st_size)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a disk of its own")
def test_a_log_that_does_not_fit_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C04: the work goes on without its log."""
    (tmp_path / "some_job.py").write_text(
        textwrap.dedent("""
        import logging, sys
        from pathlib import Path
        from hgnetv2_pipeline.processes.specs import run_from_file

        def work(spec):
            for number in range(100):
                logging.getLogger("work").warning("step %d", number)
            spec.with_suffix(".out").write_text("done")

        sys.exit(run_from_file(work, "work"))
        """)
    )
    (tmp_path / "spec.json").write_text("{}")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert on_own_disk(LOGS, tmp_path) == "done 0\n"


# --- rights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_a_result_is_as_readable_as_the_umask_says_and_nobody_elses_to_change(
    umask: int, tmp_path: Path
) -> None:
    """X05: in a process that was started with the umask 000 too."""
    before = os.umask(umask)
    try:
        mode = stat.S_IMODE(durable.write_text(tmp_path / "a", "a").stat().st_mode)
        assert mode == 0o664 & ~umask
        assert durable.current_umask() == umask
        durable.never_for_everyone()
        (tmp_path / "folder").mkdir()
        assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~umask & ~0o002
    finally:
        os.umask(before)


def test_writing_a_file_leaves_the_umask_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X05: for that moment files of other threads would be everyone's."""

    def never(_mask: int) -> int:
        raise AssertionError("the umask is the whole process's")

    monkeypatch.setattr(os, "umask", never)
    durable.write_text(tmp_path / "a", "a")


@pytest.mark.parametrize("door", ["hgnetv2", "a process of its own"])
def test_no_door_leaves_the_world_a_right_to_change(door: str, tmp_path: Path) -> None:
    """X05: logs, folders and files, with a umask of 000."""
    acts = {
        "hgnetv2": "from hgnetv2_pipeline.commands.main import main; "
        "main(['models'], standalone_mode=False)",
        "a process of its own": "from hgnetv2_pipeline.processes.specs import run_from_file; "
        "run_from_file(lambda path: None, '', ['x.json'])",
    }
    program = (
        f"import os, sys; os.umask(0)\n{acts[door]}\n"
        "open(sys.argv[1], 'w').close(); os.mkdir(sys.argv[2])"
    )
    made = [tmp_path / "file", tmp_path / "folder"]
    subprocess.run([sys.executable, "-c", program, *map(str, made)], check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    assert [path.stat().st_mode & 0o002 for path in made] == [0, 0]


def test_a_full_disk_is_told_by_the_writer_with_its_place(tmp_path: Path) -> None:
    def act() -> None:
        with durable.write_aside(tmp_path / "result"):
            raise sqlite3.OperationalError("database or disk is full")

    with pytest.raises(DiskFullError, match="disk full while writing .*result: .* bytes free"):
        act()
    assert list(tmp_path.iterdir()) == []
