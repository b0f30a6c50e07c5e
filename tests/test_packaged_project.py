"""What ``kedro package`` makes runs outside the project, from a shell and from Python."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import click
import pytest

from hgnetv2_pipeline.__main__ import main
from hgnetv2_pipeline.errors import DataError, ParameterError, WeightsError
from own_tree import write_classes
from project_copies import ROOT, copy_project, quiet_environment

QUIET = ["--params", "mlflow=false"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the environment ``mine``: two classes of eight images."""
    from hgnetv2_pipeline.commands.init import write_environment

    folder = copy_project(tmp_path_factory.mktemp("packaged") / "project")
    write_classes(folder.parent / "images", ("one", "two"))
    write_environment(
        folder, "mine", labelled=folder.parent / "images", pool=None, test=None, variant="b0"
    )
    return folder


@pytest.fixture(scope="module")
def archives(project: Path) -> dict[str, Path]:
    """The configuration as ``kedro package`` writes it, zipped, and as the folder it is."""
    where = {"folder": project / "conf"}
    where["tar"] = project.parent / "conf-hgnetv2_pipeline.tar.gz"
    with tarfile.open(where["tar"], "w:gz") as tar:
        tar.add(project / "conf", "conf")
    where["zip"] = project.parent / "conf.zip"
    with zipfile.ZipFile(where["zip"], "w") as zipped:
        for path in sorted((project / "conf").rglob("*")):
            zipped.write(path, Path("conf") / path.relative_to(project / "conf"))
    return where


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is in no project, as the current one."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_main_runs_with_the_configuration_from_anywhere(
    archives: dict[str, Path], elsewhere: Path, kind: str
) -> None:
    conf = ["--env", "mine", "--conf-source", str(archives[kind])]
    outputs = main(["--pipeline", "ingestion", *conf, *QUIET])
    assert "ingestion.lists" not in outputs and "ingestion.summary" in outputs
    # Data are where the command was given, not beside the configuration.
    assert (elsewhere / "data/02_intermediate/mine/manifest.json").is_file()
    assert not (archives[kind].parent / "data").exists()


def test_a_recipe_is_found_in_the_archive(archives: dict[str, Path], elsewhere: Path) -> None:
    from hgnetv2_pipeline.project.config_loader import ProjectConfigLoader

    def recipe(where: Path) -> object:
        loader = ProjectConfigLoader(
            where,
            env="mine",
            runtime_params={"recipe": "short"},
            base_env="base",
            default_run_env="sample",
            merge_strategy={"parameters": "soft", "globals": "soft"},
        )
        return loader["parameters"]["ssld_stage1"]

    assert recipe(archives["tar"]) == recipe(archives["folder"])


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        (["--params", "varient=b4"], ParameterError, "did you mean 'variant'"),
        (["--pipeline", "ingstion"], ParameterError, "did you mean 'ingestion'"),
        (["--pipeline", "mining"], DataError, "data.pool is empty"),
        (["--pipeline", "evaluation", "--params", "model=train/b0/x"], WeightsError, "train/b0/x"),
        (["--no-such-option"], click.UsageError, "no-such-option"),
    ],
)
def test_main_raises_the_error_itself(
    archives: dict[str, Path],
    elsewhere: Path,
    arguments: list[str],
    error: type[Exception],
    named: str,
) -> None:
    with pytest.raises(error, match=named):
        main([*arguments, "--env", "mine", "--conf-source", str(archives["tar"])])
    assert not (elsewhere / "data").exists()


def test_main_takes_no_arguments_of_the_process_it_runs_in(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["airflow", "tasks", "run", "--local"])
    with pytest.raises(ParameterError, match="there is no configuration at .*conf.*--conf-source"):
        main()
    assert main(["--help"]) == {}


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "no base"])
def test_a_configuration_that_cannot_be_read_is_one_line(
    archives: dict[str, Path], elsewhere: Path, damage: str
) -> None:
    path = elsewhere / "conf.tar.gz"
    content = {
        "cut": archives["tar"].read_bytes()[:2000],
        "empty": b"",
        "text": b"base:\n  a: 1\n",
    }
    if damage == "no base":
        with tarfile.open(path, "w:gz") as tar:
            tar.add(archives["folder"] / "mine", "conf/mine")
    else:
        path.write_bytes(content[damage])
    with pytest.raises(ParameterError, match="cannot be read|holds no folder base") as caught:
        main(["--conf-source", str(path)])
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_wheel_runs_ingestion_of_the_sample_in_a_fresh_environment(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    for name in ("README.md", "LICENSE"):
        (project / name).write_bytes((ROOT / name).read_bytes())

    def call(*command: str | Path, where: Path, code: int = 0) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=where,
            env=quiet_environment(PYTHONPATH="", OMP_NUM_THREADS="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == code, done.stdout[-4000:]
        return done.stdout

    # What `kedro package` calls, but for its isolated build, which downloads setuptools.
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    call(*build, where=project)
    tar = ["tar", "--exclude=local/*.yml", "-czf", "dist/conf-hgnetv2_pipeline.tar.gz"]
    call(*tar, f"--directory={project}", "conf", where=project)
    call(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", where=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    here = next(path for path in sys.path if path.endswith("site-packages"))
    # The libraries of this environment; not its .pth, by which the project would be found.
    (site / "libraries.pth").write_text(f"{here}\n")
    (wheel,) = (project / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(site)  # noqa: S202 - our own wheel
    work = tmp_path / "work"
    work.mkdir()
    found = call(python, "-c", "import hgnetv2_pipeline as p; print(p.__file__)", where=work)
    assert found.strip().startswith(str(site))
    conf = ["--conf-source", project / "dist" / "conf-hgnetv2_pipeline.tar.gz"]
    said = call(python, "-m", "hgnetv2_pipeline", "--pipeline", "ingestion", *conf, where=work)
    assert "pool: {'n_listed': 1317, 'n_used': 1317" in said
    assert (work / "data/02_intermediate/sample/manifest.json").is_file()
    again = call(
        python,
        "-c",
        "from hgnetv2_pipeline.__main__ import main; import sys; print(main(sys.argv[1:]))",
        *("--pipeline", "ingestion", *conf),
        where=work,
    )
    assert "02_intermediate/sample: reused" in again
    said = call(python, "-m", "hgnetv2_pipeline", "--tags", "nope", *conf, where=work, code=2)
    assert said.splitlines()[-1].startswith("unknown tag 'nope'")
