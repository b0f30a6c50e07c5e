"""Processes side by side: all run, failures are named, stops reach them and none outlives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from hang_guard import wait_until
from hgnetv2_pipeline.errors import DataError, Interrupted, ParameterError
from hgnetv2_pipeline.processes.side_by_side import run_side_by_side

MODULE = """
import os, signal, sys, time
from pathlib import Path

spec = Path(sys.argv[1])
out = spec.with_suffix(".out")
words = spec.read_text().split()
print("threads", os.environ["OMP_NUM_THREADS"])
if words[0] == "sleep":
    def stop(*_):
        out.write_text("stopped")
        sys.exit(75)
    signal.signal(signal.SIGTERM, stop)
    out.write_text(str(os.getpid()))
    time.sleep(float(words[1]))
if words[0] == "fail":
    print("reason of the failure")
    sys.exit(int(words[1]))
if words[0] == "die":
    os.kill(os.getpid(), signal.SIGKILL)
out.write_text("done")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "some_job.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "some_job"


def specs(folder: Path, *texts: str) -> list[Path]:
    files = [folder / f"{index}.json" for index in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    return files


def until(path: Path) -> None:
    wait_until(lambda: path.exists() and path.read_text() != "", f"{path} is written")


def test_all_run_and_each_has_its_own_log_and_threads(module: str, tmp_path: Path) -> None:
    files = specs(tmp_path, "ok", "ok", "ok")
    run_side_by_side(module, files, jobs=2, threads=3, logs=tmp_path / "logs")
    assert [file.with_suffix(".out").read_text() for file in files] == ["done"] * 3
    logs = [(tmp_path / "logs" / f"{index}.log").read_text() for index in range(3)]
    assert logs == ["threads 3\n"] * 3


@pytest.mark.parametrize(
    ("code", "error"), [(2, ParameterError), (3, DataError), (1, RuntimeError)]
)
def test_failure_is_named_with_the_end_of_its_log_and_stops_the_others(
    module: str, tmp_path: Path, code: int, error: type[Exception]
) -> None:
    files = specs(tmp_path, "sleep 3600", f"fail {code}", "ok")
    with pytest.raises(error, match=rf"run 1 ended with exit code {code}(.|\n)*reason of the"):
        run_side_by_side(module, files, jobs=2, threads=1, logs=tmp_path)
    assert not files[2].with_suffix(".out").exists(), "nothing new is started after a failure"


def test_killed_process_is_named_by_its_signal(module: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="SIGKILL .often the out-of-memory killer"):
        run_side_by_side(module, specs(tmp_path, "die"), jobs=1, threads=1, logs=tmp_path)


def test_process_that_asks_to_be_resumed_interrupts(module: str, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run_side_by_side(module, specs(tmp_path, "fail 75"), jobs=1, threads=1, logs=tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_is_passed_on_and_waited_for(module: str, tmp_path: Path, number: int) -> None:
    files = specs(tmp_path, "sleep 3600", "sleep 3600", "ok")

    def stop_when_running() -> None:
        for file in files[:2]:
            until(file.with_suffix(".out"))
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    thread = threading.Thread(target=stop_when_running)
    thread.start()
    with pytest.raises(Interrupted):
        run_side_by_side(module, files, jobs=2, threads=1, logs=tmp_path)
    thread.join()
    assert [file.with_suffix(".out").read_text() for file in files[:2]] == ["stopped"] * 2
    assert not files[2].with_suffix(".out").exists()
    assert signal.getsignal(number) is before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells children")
def test_children_are_stopped_when_their_parent_is_killed(module: str, tmp_path: Path) -> None:
    [spec] = specs(tmp_path, "sleep 3600")
    program = textwrap.dedent(
        f"""
        from pathlib import Path
        from hgnetv2_pipeline.processes.side_by_side import run_side_by_side
        logs = Path({str(tmp_path)!r})
        run_side_by_side("some_job", [logs / "0.json"], jobs=1, threads=1, logs=logs)
        """
    )
    source = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, str(tmp_path)])}
    parent = subprocess.Popen([sys.executable, "-c", program], env=environment)
    out = spec.with_suffix(".out")
    until(out)
    parent.kill()
    parent.wait()
    wait_until(lambda: out.read_text() == "stopped", "the child is stopped")


def test_numbers_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="jobs 0 and threads 1"):
        run_side_by_side("x", [], jobs=0, threads=1, logs=tmp_path)
