"""Specifications: what is written is what the process reads, shares fit, and mistakes are named."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.processes import specs
from hgnetv2_pipeline.processes.specs import (
    local_rank,
    read_spec,
    run_from_file,
    run_specs,
    shares,
    torchrun_share,
    write_spec,
)


class Job(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    words: str
    rank: int = 0
    world_size: int = 1


CHILD = """
import os, sys
from pathlib import Path
from pydantic import BaseModel
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.processes.specs import read_spec, run_from_file

class Job(BaseModel):
    words: str
    rank: int
    world_size: int

def work(path):
    job = read_spec(Job, path)
    if job.words == "fail":
        raise DataError("its images are gone")
    done = f"{job.words} {job.rank}/{job.world_size} {os.environ['OMP_NUM_THREADS']}"
    path.with_suffix(".out").write_text(done)

sys.exit(run_from_file(work, "a job of the tests"))
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "child_job.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "child_job"


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(("threads", "each"), [(None, 2), (3, 3)])
def test_each_process_does_its_share_with_its_part_of_the_processors(
    child: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int | None, each: int
) -> None:
    monkeypatch.setattr(specs, "available_cpus", lambda: 5)
    work, logs = tmp_path / "work", tmp_path / "logs"
    run_specs(child, shares(Job(words="go"), 2), work, jobs=2, threads=threads, logs=logs)
    told = [(work / f"rank={rank}.out").read_text() for rank in range(2)]
    assert told == [f"go 0/2 {each}", f"go 1/2 {each}"]
    assert sorted(path.name for path in logs.iterdir()) == ["rank=0.log", "rank=1.log"]


def test_the_error_of_a_process_is_ours_with_the_end_of_its_log(child: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run one ended with exit code 3") as caught:
        run_specs(child, {"one": Job(words="fail")}, tmp_path, jobs=1, logs=tmp_path)
    assert "its images are gone" in caught.value.__notes__[-1]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    job = Job(words="é \U0001f408", rank=1, world_size=3)
    assert read_spec(Job, write_spec(tmp_path / "spec.json", job)) == job


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", r"spec\.json is not a readable JSON file: "),
        ("\xff", r"spec\.json is not a readable JSON file: "),
        (
            "[]",
            r"spec\.json: Input should be a valid dictionary or instance of Job \(given: \[\]\)",
        ),
        ("{}", r"spec\.json: words: Field required$"),
        (
            json.dumps({"words": "a", "rank": "x", "other": 1}),
            r"spec\.json: rank: Input should be .* \(given: 'x'\); other: Extra inputs .*: 1\)$",
        ),
    ],
)
def test_a_specification_that_is_none_is_refused_in_one_line(
    tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "spec.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ParameterError, match=told) as caught:
        read_spec(Job, path)
    assert "\n" not in str(caught.value)


def test_the_word_of_torchrun_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(words="go", rank=1, world_size=2)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (torchrun_share(job), local_rank(job.rank)) == (job, 1)
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    assert torchrun_share(job) == Job(words="go", rank=5, world_size=8)
    assert local_rank(job.rank) == 2


@pytest.mark.parametrize(
    ("rank", "said"), [("0", ["all is well", "take care"]), ("1", ["take care"])]
)
def test_of_many_processes_the_first_alone_says_what_is_well(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    rank: str,
    said: list[str],
) -> None:
    monkeypatch.setenv("RANK", rank)
    caplog.set_level(logging.INFO)

    def work(path: Path) -> None:
        logging.info("all is well")
        logging.warning("take care")

    assert run_from_file(work, "", [str(tmp_path / "spec.json")]) == 0
    assert caplog.messages == said
