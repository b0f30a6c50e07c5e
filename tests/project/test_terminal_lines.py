"""The parts of what ``kedro run`` shows: lines, their width and colour, the log, key figures."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hgnetv2_pipeline import progress
from hgnetv2_pipeline.durable import write_json
from hgnetv2_pipeline.progress import SHOWN, Progress, TerminalHandler, fitted
from hgnetv2_pipeline.project import results
from hgnetv2_pipeline.project.logs import RunLog
from hgnetv2_pipeline.project.results import BEGINS
from hgnetv2_pipeline.project.terminal import hooks
from hgnetv2_pipeline.project.terminal.key_figures import key_figure
from hgnetv2_pipeline.reporting.terminal import terminal_table
from run_params import parameters
from tiny_project import identity


class Screen(io.StringIO):
    """A terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger of its own, so that nothing else hears of it."""
    made = logging.getLogger("terminal lines")
    made.setLevel(logging.INFO)
    made.propagate = False
    yield made
    made.handlers.clear()


# --- the terminal ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({"TERM": "xterm"}, "\x1b[32m✓\x1b[0m mining"),
        ({"TERM": "xterm", "NO_COLOR": "1"}, "✓ mining"),
        ({"TERM": "dumb"}, "✓ mining"),
    ],
)
def test_colour_is_for_terminals_that_show_it(
    variables: dict[str, str], shown: str, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    screen = Screen()
    logger.addHandler(TerminalHandler(screen))
    logger.log(SHOWN, "✓ mining")
    assert screen.getvalue() == f"{shown}\n"


def test_details_are_for_the_verbose(logger: logging.Logger) -> None:
    screen = io.StringIO()
    handler = TerminalHandler(screen)
    handler.setLevel(SHOWN)
    handler.dated = False
    logger.addHandler(handler)
    logger.info("a detail")
    logger.log(SHOWN, "a stage")
    logger.warning("a warning")
    assert screen.getvalue() == "a stage\nwarning: a warning\n"


def test_lines_are_broken_between_words_and_commands_are_kept() -> None:
    command = f"    hgnetv2 predict --model {'x' * 80}"
    text = fitted(f"{'word ' * 30}\n{command}", 80)
    assert max(len(line) for line in text.split("\n")[:-1]) <= 80
    assert text.split("\n")[1].startswith("  word")
    assert text.endswith(f"\n{command}")


@pytest.mark.parametrize("width", [60, 80])
def test_a_table_fits_the_terminal_and_loses_no_word(width: int) -> None:
    rows = [
        {"training": f"{name} of the labelled images for as many steps", "top-1 %": "90.1",
         "min - max": "88.0 - 91.0", "gain": "+1.3", "empty": ""}
        for name in ("supervised", "distilled")
    ]  # fmt: skip
    lines = terminal_table(rows, width).splitlines()
    assert max(map(len, lines)) <= width
    assert "empty" not in lines[0]
    words = " ".join(lines).split()
    assert all(words.count(word) == 2 for word in rows[0]["training"].split()[1:])


def test_without_a_terminal_lines_come_at_growing_intervals_with_seconds_per_slow_unit(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with caplog.at_level(SHOWN):
        work = Progress(400, "training", "run")
        for now in range(60, 400 * 60, 60):  # noqa: B007 - the clock
            work.advance()
    lines = [record.message for record in caplog.records]
    assert lines[0] == "training: 1 of 400, 1 min 0 s per run, about 6 h 39 min left"
    assert len(lines) < 100, "at most one in five minutes of 400"
    assert all(record.levelno == SHOWN for record in caplog.records)


# --- the log --------------------------------------------------------------------------------------


def test_a_log_is_begun_with_the_first_result_and_has_what_came_before(
    tmp_path: Path, logger: logging.Logger
) -> None:
    begun: list[str] = []
    log = RunLog(tmp_path / "logs", tmp_path, when_begun=lambda: begun.append("one"))
    logger.addHandler(log)
    logger.info("reused")
    assert not (tmp_path / "logs").exists()
    logger.info("begun", extra={BEGINS: True})
    logger.info("after")
    log.close()
    (file,) = (tmp_path / "logs").iterdir()
    said = [line.rpartition(": ")[2] for line in file.read_text().splitlines()]
    assert said == ["reused", "begun", "after"] and begun == ["one"]


def test_a_run_that_makes_nothing_leaves_no_log(tmp_path: Path, logger: logging.Logger) -> None:
    log = RunLog(tmp_path / "logs", tmp_path, when_begun=lambda: None)
    logger.addHandler(log)
    logger.info("reused")
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_cannot_be_written_is_a_warning_and_the_run_goes_on(
    tmp_path: Path, logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs").write_text("in the way")
    log = RunLog(tmp_path / "logs" / "tiny", tmp_path, when_begun=lambda: None)
    logger.addHandler(log)
    for _ in range(3):
        logger.warning("something")
    log.close()
    ours = "hgnetv2_pipeline.project.logs"
    said = [record.message for record in caplog.records if record.name == ours]
    assert len(said) == 1 and said[0].startswith("the log cannot be written")


# --- stages ---------------------------------------------------------------------------------------


def node(stage: str) -> Any:
    return SimpleNamespace(namespace=stage)


@pytest.fixture
def shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[hooks.TerminalHooks, list[str]]]:
    """The hooks in a project, and what they have shown so far."""
    caplog.set_level(SHOWN, "hgnetv2_pipeline")
    params = parameters()
    told = params["this_run"]
    who = {**told["identity"], "project": tmp_path}
    made = hooks.TerminalHooks()
    loader = {"parameters": {**params, "this_run": {**told, "identity": who}}}
    made.after_context_created(SimpleNamespace(config_loader=loader))

    class Said(list[str]):
        def __iter__(self) -> Iterator[str]:
            return iter([record.getMessage() for record in caplog.records])

    yield made, Said()
    made.on_pipeline_error(ValueError("closes the log"))


def run_stages(made: hooks.TerminalHooks, *stages: tuple[str, bool]) -> None:
    """Run nodes of these stages; true: a result was made by one."""
    made.before_pipeline_run(SimpleNamespace(nodes=[node(stage) for stage, _ in stages]))
    for stage, makes in stages:
        made.before_node_run()
        if makes:
            results.note_made(Path(stage))
        made.after_node_run(node(stage))


def test_a_stage_is_shown_after_its_last_node_and_reused_ones_share_a_line(
    shown: tuple[hooks.TerminalHooks, list[str]],
) -> None:
    made, said = shown
    run_stages(
        made, ("ingestion", False), ("comparison", False), ("train", True), ("train", False),
        ("export", False),
    )  # fmt: skip
    made.after_pipeline_run({"pipeline_names": ["export"]})
    lines = list(said)
    assert lines[0] == "✓ reused: ingestion, comparison"
    assert lines[1].split()[:2] == ["✓", "train"] and lines[2] == "✓ reused: export"
    assert len(lines) == 3, "no table of a comparison that nobody asked for"


def test_a_stage_says_that_an_earlier_result_of_its_was_archived(
    shown: tuple[hooks.TerminalHooks, list[str]],
) -> None:
    made, said = shown
    made.before_pipeline_run(SimpleNamespace(nodes=[node("export")]))
    made.before_node_run()
    results.note_made(Path("export"))
    results._archived.append(Path("archive"))
    made.after_node_run(node("export"))
    (line,) = list(said)
    assert line.endswith(" s   1 archived")


def test_many_results_of_other_code_are_one_line_with_their_number(
    shown: tuple[hooks.TerminalHooks, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, said = shown
    run_stages(made, ("mining", False))
    monkeypatch.setattr(results, "_of_other_code", {f"result {n}" for n in range(38)})
    made.after_pipeline_run({"pipeline_names": ["mining"]})
    assert [line for line in said if line.startswith("38 of the reused results")]


@pytest.fixture(scope="module")
def params() -> dict[str, Any]:
    return parameters()


def test_what_comes_next_names_files_that_are_there(tmp_path: Path, params: dict[str, Any]) -> None:
    who = identity(tmp_path)
    (who.folder("report")).mkdir(parents=True)
    (who.folder("report") / "report.html").touch()
    found = hooks._what_next(who, params, {"reporting", "export"}, set())
    assert "data/08_reporting/mine/report/report.html" in found
    assert "predict" not in found and "mlflow" not in found
    assert hooks._what_next(who, params, {"evaluation"}, {"evaluation"}) == ""
    mistakes = who.folder("error_analysis") / "test-torch-fp32" / "mistakes.csv"
    mistakes.parent.mkdir(parents=True)
    mistakes.touch()
    found = hooks._what_next(who, params, {"evaluation"}, {"evaluation"})
    assert mistakes.relative_to(tmp_path).as_posix() in found


@pytest.mark.parametrize(
    ("asked", "following"),
    [
        ("train", "--pipeline evaluation --params model=train/b0/seed=0"),
        ("ssld_stage1", "--pipeline evaluation --params model=ssld_stage1/b0/seed=0"),
        ("label_errors", "hgnetv2 review"),
        ("sweep", "sweep/seed=0/sweep_report.html"),
        ("ingestion", ""),
    ],
)
def test_a_pipeline_that_was_named_says_what_goes_on_from_it(
    asked: str, following: str, tmp_path: Path, params: dict[str, Any]
) -> None:
    stages = {"ingestion", "train", "ssld_stage1", "label_errors"}
    found = hooks._what_next(identity(tmp_path), params, stages, {asked})
    assert following in found and bool(following) == bool(found)
    assert found.count("--pipeline evaluation") == following.count("--pipeline evaluation")


@pytest.mark.parametrize(
    ("stage", "file", "content", "figure"),
    [
        ("train", "result.json",
         {"val": {"top1": 0.89}, "steps": 1080}, "val 89.0 %, 1,080 steps"),
        ("train", "result.json",
         {"val": {"map": 0.5}, "steps": 3}, "val mAP 50.0 %, 3 steps"),
        ("train", "result.json", {"of": "another version"}, ""),
        ("train_teacher", "teacher.json",
         {"val": {"split": "val", "top1_count": 62, "n": 70}, "members": ["a", "b"]},
         "val 88.6 %, 2 members"),
        ("label_errors", "label_errors.json",
         {"estimate": 4.4, "interval": [0.0, 11.6], "images": 1740},
         "about 4 of 1,740 labels are wrong (95 %: 0 to 12)"),
        ("best", "choice.json", {"used": "train/b0/seed=0"},
         "train/b0/seed=0 is used"),
        ("export", "choice.json", {}, ""),
        ("prediction", "choice.json", {}, ""),
    ],
)  # fmt: skip
def test_a_stage_is_known_by_one_figure(
    stage: str, file: str, content: dict[str, Any], figure: str, tmp_path: Path
) -> None:
    who = identity(tmp_path)
    write_json(who.folder(stage) / file, content)
    assert key_figure(stage, who, parameters()) == figure
