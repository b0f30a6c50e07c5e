"""What the documentation tells a reader to type exists and is accepted; the cheap ones are run."""

from __future__ import annotations

import importlib.util
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from PIL import Image

from doc_pages import blocks, fenced, page_text
from hgnetv2_pipeline.cli import cli as kedro_cli
from hgnetv2_pipeline.commands import init
from hgnetv2_pipeline.commands.main import main as hgnetv2
from hgnetv2_pipeline.deployment.card import SCRIPT
from hgnetv2_pipeline.deployment.predict_script import script_parser
from hgnetv2_pipeline.pipeline_registry import register_pipelines
from hgnetv2_pipeline.project.config_loader import ProjectConfigLoader
from hgnetv2_pipeline.project.given import read_params
from hgnetv2_pipeline.project.identity import FOLDERS
from hgnetv2_pipeline.weights.zoo import ZOO
from project_copies import ROOT, quiet_environment

README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "conf" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
]
PROGRAMS = (
    "make", "kedro", "hgnetv2", "dvc", "mlflow", "torchrun", "pytest", "python", "pip",
    "tritonserver", "cp", "export", "git",
)  # fmt: skip
TOP = ("benchmarks", "conf", "data", "deploy", "docs", "notebooks", "src", "tests", "weights")


def shown(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def inline_code(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", fenced(text)[1])


def loop_words(line: str) -> tuple[str, list[str]] | None:
    """The variable and the words of a line ``for NAME in WORDS; do``, braces expanded by bash."""
    found = re.fullmatch(r"for (\w+) in (.*); do", line)
    if found is None:
        return None
    said = subprocess.run(
        ["bash", "-c", f"echo {found[2]}"], capture_output=True, text=True, check=True
    )
    return found[1], said.stdout.split()


def unrolled(block: str) -> Iterator[str]:
    """The commands of a shell block; of a loop those of its first round."""
    name, value = "", ""
    for line in block.splitlines():
        loop = loop_words(line)
        if loop is not None:
            name, value = loop[0], loop[1][0]
        elif line == "done":
            name = ""
        else:
            yield line.replace(f"${name}", value) if name else line


def commands(page: Path) -> list[list[str]]:
    """Every command of a page as words: the lines of its shell blocks, and code in its text."""
    lines = [line for block in blocks(page, "", "sh") for line in unrolled(block)]
    text = page_text(page)
    lines += [code for code in inline_code(text) if code.split(" ")[0] in PROGRAMS]
    found = [shlex.split(line, comments=True) for line in lines]
    return [words for words in found if len(words) > 1]


def every(program: str) -> list[Any]:
    found = {
        (shown(page), " ".join(words)): words
        for page in PAGES
        for words in commands(page)
        if words[0] == program
    }
    return [pytest.param(words[1:], id=f"{page}: {line}") for (page, line), words in found.items()]


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's conf/ and, beside it, what ``hgnetv2 init NAME`` writes for some images."""
    import shutil

    base = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "conf", base / "conf")
    for name in ("cats", "dogs"):
        (base / "labelled" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (40, 40), (number, 0, 0)).save(
                base / "labelled" / name / f"{number}.png"
            )
    init.write_environment(
        base, "NAME", labelled=base / "labelled", pool=None, test=None, variant=None
    )
    for own in ("digits", "digits_notebook"):  # docs/first_hour.md, notebooks/02_own_data.ipynb
        shutil.copytree(base / "conf" / "NAME", base / "conf" / own)
    return base / "conf"


def parameters(conf: Path, env: str | None, given: dict[str, Any]) -> dict[str, Any]:
    loader = ProjectConfigLoader(
        conf,
        env=env or "sample",
        runtime_params=given,
        base_env="base",
        default_run_env="sample",
        merge_strategy={"parameters": "soft", "globals": "soft"},
    )
    _ = loader.identity.model_id
    return loader["parameters"]


def test_the_readme_is_short_and_every_page_has_no_unknown_program() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) < 200
    for page in PAGES:
        for words in commands(page):
            assert words[0] in PROGRAMS, f"{shown(page)}: {' '.join(words)}"


@pytest.mark.parametrize(
    "page", [ROOT / "docs" / "imagenet.md", ROOT / "docs" / "weights.md"], ids=shown
)
def test_the_loop_over_published_models_meets_all_fourteen(page: Path) -> None:
    found = [loop_words(line) for block in blocks(page, "", "sh") for line in block.splitlines()]
    (loop,) = [loop for loop in found if loop is not None]
    stages = ("ssld_stage1", "ssld_stage2")
    assert sorted(loop[1]) == sorted(name for name, e in ZOO.items() if e.stage in stages)
    assert len(loop[1]) == 14


@pytest.mark.parametrize("words", every("kedro"))
def test_a_kedro_command_is_accepted(
    words: list[str], conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if words[0] in ("registry", "ipython", "package"):
        return  # Kedro's own; `kedro registry list` is run below
    if words[0] == "airflow":
        from kedro_airflow.plugin import airflow_commands

        monkeypatch.chdir(ROOT)
        airflow_commands.commands[words[1]].make_context(words[1], words[2:])
        return
    command = kedro_cli.commands[words[0]]
    if words[0] == "viz":
        from kedro_viz.launchers.cli.main import viz

        assert len(words) == 1 or words[1] in viz.list_commands(click.Context(viz))
        return
    assert words[0] == "run"
    options = command.make_context("run", words[1:]).params
    pipelines = register_pipelines()
    names = {*(options["pipelines"] or []), options["pipeline"]} - {None, ""}
    assert names | set(options["tags"] or ()) <= set(pipelines)
    if options["env"]:
        assert (conf / options["env"]).is_dir()
    accepted = parameters(conf, options["env"], read_params(options["params"]))
    assert set(accepted["redo"]) <= {*pipelines, "teacher_logits", "all"}


@pytest.mark.parametrize("words", every("hgnetv2"))
def test_an_hgnetv2_command_is_accepted(words: list[str]) -> None:
    if words[0] == "--help":
        return
    command = hgnetv2.commands[words[0]]
    if len(words) > 1:  # a bare `hgnetv2 init` in a sentence names the command
        command.make_context(words[0], words[1:])


@pytest.mark.parametrize("words", every("make"))
def test_a_make_target_exists(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z0-9-]+):", makefile, flags=re.MULTILINE)
    assert words[0] in targets


def test_other_programs_are_asked_for_what_exists() -> None:
    from dvc.cli import parse_args

    stages = set(yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"])
    stages.add("conf/NAME/dvc.yaml")  # which init writes
    dvc_files = {path.name for path in (ROOT / "weights").glob("*.dvc")}
    tracking = (ROOT / "src/hgnetv2_pipeline/project/tracking.py").read_text(encoding="utf-8")
    for page in PAGES:
        for words in commands(page):
            if words[0] == "dvc":
                parse_args(words[1:])
                known = {"repro": stages, "status": stages, "update": dvc_files}.get(words[1])
                assert known is None or set(words[2:]) <= known, words
            elif words[0] == "python" and Path(words[1]).name == SCRIPT:
                script_parser().parse_args(words[2 : words.index(">") if ">" in words else None])
            elif words[0] == "python" and words[1][0] != "-":
                assert (ROOT / words[1]).is_file(), words
            elif words[:2] == ["mlflow", "models"]:
                from mlflow.models.cli import commands as models

                if len(words) > 3:  # `mlflow models serve` in a sentence names the command
                    models.commands[words[2]].make_context(words[2], words[3:])
            elif words[0] == "mlflow":
                assert " ".join(words) in tracking
            elif words[0] == "pip":
                assert words[1] == "install", words
            elif words[0] == "tritonserver":
                assert _result(words[1].partition("=")[2]), words
            elif words[0] == "torchrun":
                module = words[words.index("-m") + 1]
                assert importlib.util.find_spec(module) is not None, module
            elif words[0] == "pytest":
                picked = {words[at + 1] for at, word in enumerate(words) if word in ("-m", "-k")}
                paths = {word for word in words[1:] if not word.startswith("-")} - picked
                assert all((ROOT / path).exists() for path in paths), words


def test_bare_params_in_a_sentence_are_accepted(conf: Path) -> None:
    run = kedro_cli.commands["run"]
    seen = 0
    for page in PAGES:
        for code in inline_code(page_text(page)):
            if code.startswith("--params "):
                options = run.make_context("run", shlex.split(code)).params
                parameters(conf, None, read_params(options["params"]))
                seen += 1
    assert seen


def links(page: Path) -> Iterator[Path]:
    for target in re.findall(r"\]\(([^)#]+)\)", page_text(page)):
        if not target.startswith("http"):
            yield page.parent / target


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    for target in links(page):
        assert target.exists(), target
    text = page_text(page)
    # Rows that say so name files that are yet to come.
    text = "\n".join(line for line in text.splitlines() if "| not yet |" not in line)
    for code in inline_code(text):
        top = code.split("/")[0]
        if "/" not in code or " " in code or top not in TOP or "NAME" in code:
            continue
        if (ROOT / "src" / "hgnetv2_pipeline" / code).exists():
            continue  # the map names files of the package without its folder
        if top == "data":
            assert _result(code), f"{shown(page)}: no pipeline writes {code}"
        elif top != "weights" and "<" not in code:
            assert (ROOT / code).exists(), f"{shown(page)}: {code}"


def _result(path: str) -> bool:
    """Whether ``path`` is, or is in or above, a folder of the one table of paths."""
    parts = path.removesuffix("/").split("/")
    for folder in FOLDERS.values():
        pattern = [re.sub(r"\{\w+\}", "[^/]+", part) for part in folder.split("/")]
        if all(re.fullmatch(known, part) for known, part in zip(pattern, parts, strict=False)):
            return True
    return False


def test_the_table_of_pipelines_is_whole_and_names_their_folders() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| `(data/\S+)` \|$", README.read_text("utf-8"), re.M)
    assert {name for name, _ in rows} == {n for n in register_pipelines() if n[0] != "_"}
    # These two folders are named in the table of paths by what they hold.
    other = {"ingestion": "lists", "reporting": "report", "comparison": "comparison_report"}
    for name, folder in rows:
        wanted = FOLDERS[other.get(name, name)].replace("{", "<").replace("}", ">")
        assert folder == f"{wanted}/", name


def test_the_map_names_files_that_exist_or_says_not_yet() -> None:
    text = (ROOT / "docs" / "seed_map.md").read_text(encoding="utf-8")
    package = ROOT / "src" / "hgnetv2_pipeline"
    checked = 0
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3:
            cells.append("")
        if len(cells) != 4 or cells[0] in ("section", "what") or set(cells[0]) <= {"-"}:
            continue
        if cells[3].startswith("not yet"):
            continue
        for name in re.findall(r"`([^`]+)`", cells[2]):
            assert (package / name).exists() or (ROOT / name).exists(), f"{cells[0]}: {name}"
            checked += 1
    assert checked > 30


def test_the_final_table_of_the_readme_has_the_rows_of_the_program() -> None:
    from hgnetv2_pipeline.reporting.comparison import ARMS

    (table,) = [block for block in blocks(README, "text") if "top-1 %" in block]
    labels = [re.split(r"\s{2,}", line)[0] for line in table.splitlines()]
    assert [label for label in labels if label in ARMS.values()] == list(ARMS.values())[1:]


def test_the_results_page_adds_up() -> None:
    text = (ROOT / "docs" / "results" / "sample.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| .* \| ([\d ]+) of (\d+) \| ([\d.]+) \| ([\d.–-]+) \|$",
                      text, re.M)  # fmt: skip
    assert len(rows) == 3 * 6, "on test with either teacher, and before there was a test set"
    for label, counts, n, mean, deviation in rows:
        shares = [100 * int(count) / int(n) for count in counts.split()]
        assert f"{statistics.mean(shares):.1f}" == mean, label
        if len(shares) > 1:
            assert f"{statistics.stdev(shares):.1f}" == deviation, label


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["hgnetv2", "--help"], "predict"),
        (["hgnetv2", "models"], "b4.ssld_stage2"),
        (["kedro", "registry", "list"], "- ssld_stage1"),
        (["make", "help"], "the whole chain on the embedded sample"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_cheap_commands_run(words: list[str], expected: str) -> None:
    starts = {
        "hgnetv2": [
            sys.executable,
            "-c",
            "from hgnetv2_pipeline.commands.main import main; main()",
        ],
        "kedro": [sys.executable, "-m", "kedro"],
        "make": ["make"],
    }
    done = subprocess.run(
        [*starts[words[0]], *words[1:]],
        cwd=ROOT,
        env=quiet_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_the_python_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks(README, "python")
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - our own page
    said = capsys.readouterr().out.strip()
    assert said and f"# {said}" in code
