"""Marked ``slurm``: the job of docs/schedulers.md under a real SLURM, all of it on this machine.

It needs Debian's slurmctld, slurmd, slurm-client and munge. SLURM listens where the name of
this machine leads, which must be its loopback device.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from doc_pages import blocks
from hang_guard import wait_until
from killed_chain import left
from project_copies import ROOT, copy_project, quiet_environment, save_often

PAGE = ROOT / "docs" / "schedulers.md"
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
NodeName={host} CPUs={processors}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment for the commands of a SLURM that runs until the test has ended."""
    host = socket.gethostname().partition(".")[0]
    if not socket.gethostbyname(host).startswith("127."):
        pytest.skip(f"SLURM would listen to others: /etc/hosts does not say 127.0.0.1 {host}")
    folder = tmp_path / "slurm"
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        controller, node = one.getsockname()[1], two.getsockname()[1]
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            host=host, controller=controller, node=node,
            user=getpass.getuser(), folder=folder, processors=os.cpu_count(),
        )
    )  # fmt: skip
    environment = quiet_environment(SLURM_CONF=str(folder / "slurm.conf"))
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}:/usr/sbin"
    key = folder / "munge.key"
    subprocess.run(["mungekey", "--create", f"--keyfile={key}"], env=environment, check=True)
    files = [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    daemons = (
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket",
         f"--key-file={key}", *files],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    )  # fmt: skip
    with ExitStack() as stack:
        for words in daemons:
            file = stack.enter_context((folder / f"{words[0]}.log").open("wb"))
            process = subprocess.Popen(words, env=environment, stdout=file, stderr=file)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            if words[0] == "munged":
                wait_until(lambda: (folder / "munge.socket").exists(), "munge listens")
        wait_until(lambda: "idle" in say(environment, "sinfo", check=False), "the node is idle")
        yield environment
        # A step outlives its slurmd.
        say(environment, "scancel", "--me")
        wait_until(lambda: not say(environment, "squeue", "--noheader"), "no job is left")


def say(environment: dict[str, str], *words: str, check: bool = True) -> str:
    done = subprocess.run(
        words,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


def job_script(processors: int, command: str) -> str:
    """The job of the page with what this machine has, and another ``kedro run``."""
    (script,) = [text for text in blocks(PAGE, "", "bash") if "#SBATCH" in text]
    small = f"--nodes=1 --ntasks=1 --cpus-per-task={processors} --time=60"
    script, resources = re.subn(r"--nodes=1 --ntasks=1 .*", small, script)
    script, commands = re.subn(r"kedro run --env cats", command, script)
    assert (resources, commands) == (1, 1)
    return script


@pytest.mark.slurm
def test_a_job_that_is_told_to_end_is_put_back_and_goes_on(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    project = copy_project(tmp_path / "project")
    save_often(project)
    processors = os.cpu_count() or 1
    script = project / "job.sh"
    script.write_text(
        job_script(processors, "kedro run -v --pipelines train_teacher --params mlflow=false")
    )
    words = ["sbatch", "--parsable", f"--chdir={project}", f"--output={project}/out.txt"]
    job = say(slurm, *words, str(script)).strip()
    members = project / "data" / "06_models" / "sample" / "train_teacher"
    wait_until(lambda: any(members.rglob("checkpoints/step=*")), "a member has a checkpoint")
    # What --signal does when the time is nearly up: the steps of the job get it, not its shell.
    say(slurm, "scancel", "--signal=USR1", job)
    output = project / "out.txt"
    wait_until(lambda: "Restarts=1" in say(slurm, "scontrol", "show", "job", job), "a requeue")
    assert "the same command resumes" in output.read_text()
    # SLURM lets two minutes pass before a job that was put back begins again.
    wait_until(lambda: "JobState=COMPLETED" in say(slurm, "scontrol", "show", "job", job), "end")
    assert "unfinished work was found and is resumed" in output.read_text()
    assert (members / "mixed" / "teacher.json").is_file() and not left(project)
