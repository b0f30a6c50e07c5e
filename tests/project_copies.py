"""Copies of the project to run pipelines in, and how tests run them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Where processes started by tests record any look outside this machine; one for all test workers.
NETWORK_LOG = Path(
    os.environ.setdefault(
        "HGNETV2_NETWORK_LOG",
        str(Path(tempfile.gettempdir()) / f"hgnetv2-network-{os.getpid()}.log"),
    )
)


def copy_project(target: Path) -> Path:
    """A copy of the project without data and environment, to run pipelines in."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("conf", "src", ".dvc"):
        shutil.copytree(
            ROOT / name,
            target / name,
            # What was compiled is valid in the copy too; a file that is just being written is not.
            ignore=shutil.ignore_patterns("*.pyc.*", "*.egg-info", "cache", "tmp", "local.*"),
        )
    for name in ("pyproject.toml", "dvc.yaml", "dvc.lock", ".dvcignore", ".telemetry"):
        if (ROOT / name).exists():
            shutil.copyfile(ROOT / name, target / name)
    return target


def environment_python(*packages: str) -> Path:
    """The Python of an environment with ``packages``, which conflict with ours or are large."""
    script = ROOT / "tests" / "serving" / "client_environment.py"
    done = subprocess.run(
        [sys.executable, str(script), *packages], capture_output=True, text=True, check=True
    )
    return Path(done.stdout.strip())


SHORTER = {
    "  runs: 200": "  runs: 20",
    "  turns: 3": "  turns: 1",
    "  cold_starts: 3": "  cold_starts: 1",
    "  equal_steps_seeds: [0, 1]": "  equal_steps_seeds: []",
    "  unmined_seeds: [0]": "  unmined_seeds: []",
    "  stage1_seeds: [1]": "  stage1_seeds: []",
    "  beside: [timm:resnet18, timm:mobilenetv3_large_100]": "  beside: [timm:resnet18]",
}


def shorten(project: Path) -> None:
    """Leave the embedded sample in ``project`` no further training, and fewer timed calls: 1,260
    of its 1,740 steps are those of further trainings."""
    path = project / "conf" / "sample" / "parameters.yml"
    text = path.read_text(encoding="utf-8")
    for line, shorter in SHORTER.items():
        assert f"{line}\n" in text, line
        text = text.replace(f"{line}\n", f"{shorter}\n")
    path.write_text(text, encoding="utf-8")


def save_often(project: Path) -> None:
    """Let trainings of the embedded sample in ``project`` save their state every few steps."""
    path = project / "conf" / "sample" / "parameters.yml"
    text = path.read_text(encoding="utf-8")
    assert "checkpoint_every_minutes: 5\n" in text
    often = text.replace("checkpoint_every_minutes: 5\n", "checkpoint_every_minutes: 0.02\n")
    path.write_text(often, encoding="utf-8")


def kedro(
    project: Path, *arguments: str, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``kedro ARGUMENTS`` in ``project`` and return what it printed (both streams), of a
    pipeline all details."""
    verbose = ["--verbose"] if arguments[0] == "run" else []
    done = subprocess.run(
        [sys.executable, "-m", "kedro", *arguments, *verbose],
        cwd=project,
        env=quiet_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    if check:
        assert done.returncode == 0, f"kedro {' '.join(arguments)}:\n{done.stdout[-4000:]}"
    assert not NETWORK_LOG.exists(), NETWORK_LOG.read_text(encoding="utf-8")
    return done


def run_here(*arguments: str) -> tuple[int, str]:
    """``kedro run ARGUMENTS`` inside this process, in the project that is the current folder.

    The exit code and the last words, which must be one line where the run failed.
    """
    from click.testing import CliRunner

    from hgnetv2_pipeline.cli import run as command

    *words, last = arguments
    if "--params" not in words:
        words, last = [*arguments, "--params"], ""
    done = CliRunner().invoke(command, [*words, f"mlflow=false,{last}".rstrip(",")])
    assert "Traceback" not in done.output
    if done.exit_code:
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.exit_code, done.stderr.strip()


def quiet_environment(**more: str) -> dict[str, str]:
    """The environment for a process of a user who has set nothing, behind the network guard."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("KEDRO_", "MLFLOW_"))}
    return {
        **kept,
        "PYTHONPATH": str(ROOT / "tests" / "network_guard"),
        "HGNETV2_NETWORK_LOG": str(NETWORK_LOG),
        **more,
    }


@dataclass
class SampleRun:
    """The embedded sample after one ``kedro run``: its project and what was printed."""

    project: Path
    output: str

    def data(self, *parts: str) -> Path:
        """A path below ``data/``."""
        return self.project.joinpath("data", *parts)
