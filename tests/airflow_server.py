"""A real Airflow for tests, in an environment and a folder of its own, on this machine alone: API
server, scheduler with its local executor, and reader of DAGs, on SQLite.
"""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hang_guard import wait_until
from project_copies import quiet_environment

PACKAGES = ("apache-airflow==3.3.2",)
LONGEST = 3600.0  # seconds of a run, which only a hang reaches


@dataclass
class Airflow:
    """A running Airflow: the address of its API, and the name of the one DAG it has read."""

    address: str
    dag: str
    token: str = ""

    def ask(self, path: str, body: object = None, method: str | None = None) -> Any:
        """What the API answers, as the objects that its JSON holds."""
        request = urllib.request.Request(
            f"http://{self.address}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"},
            method=method,
        )
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - http, to ourselves
            return json.load(answer)

    def answers(self, path: str) -> bool:
        """Whether there is an answer without an error."""
        try:
            self.ask(path)
        except OSError:
            return False
        return True

    def trigger(self, run: str, params: str = "") -> None:
        """Start the DAG as the run of that name."""
        body = {"dag_run_id": run, "logical_date": None, "conf": {"params": params}}
        self.ask(f"/api/v2/dags/{self.dag}", {"is_paused": False}, "PATCH")
        self.ask(f"/api/v2/dags/{self.dag}/dagRuns", body)

    def wait(self, run: str) -> str:
        """The state in which the run ended."""
        deadline = time.monotonic() + LONGEST
        while time.monotonic() < deadline:
            state = self.ask(f"/api/v2/dags/{self.dag}/dagRuns/{run}")["state"]
            if state in ("success", "failed"):
                return str(state)
            time.sleep(1)
        raise TimeoutError(f"{run} has not ended after {LONGEST:g} s")

    def tries(self, run: str) -> dict[str, list[dict[str, Any]]]:
        """All tries of every task, by task in the order in which they began."""
        place = f"/api/v2/dags/{self.dag}/dagRuns/{run}/taskInstances"
        tasks = self.ask(place)["task_instances"]
        return {
            task["task_id"]: self.ask(f"{place}/{task['task_id']}/tries")["task_instances"]
            for task in sorted(tasks, key=lambda task: task["start_date"] or "")
        }

    def log(self, run: str, task: str, number: int) -> str:
        """What the task printed in that try."""
        place = f"/api/v2/dags/{self.dag}/dagRuns/{run}/taskInstances/{task}/logs/{number}"
        return "\n".join(str(line["event"]) for line in self.ask(place)["content"])


@contextmanager
def airflow(python: Path, dags: Path, home: Path, dag: str) -> Iterator[Airflow]:
    """An Airflow that has read ``dag`` from the folder ``dags``, until the body has ended."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    running = Airflow(f"127.0.0.1:{port}", dag)
    settings = {
        "core__dags_folder": dags, "core__load_examples": False, "core__executor": "LocalExecutor",
        "core__execution_api_server_url": f"http://{running.address}/execution/",
        "core__simple_auth_manager_all_admins": True,
        "api__host": "127.0.0.1", "api__port": port, "api__workers": 1,
        "api_auth__jwt_secret": secrets.token_hex(32),
        "usage_data_collection__enabled": False,
    }  # fmt: skip
    variables = {f"AIRFLOW__{name.upper()}": str(value) for name, value in settings.items()}
    environment = quiet_environment(AIRFLOW_HOME=str(home), **variables)
    home.mkdir(parents=True)
    command = [str(python), "-m", "airflow"]
    log = home / "log.txt"
    with ExitStack() as stack:
        file = stack.enter_context(log.open("wb"))

        def start(*words: str) -> subprocess.Popen[bytes]:
            return subprocess.Popen([*command, *words], env=environment, stdout=file, stderr=file)

        assert start("db", "migrate").wait() == 0, log.read_text()
        for words in (["api-server"], ["dag-processor"], ["scheduler", "--skip-serve-logs"]):
            process = start(*words)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        wait_until(lambda: running.answers("/api/v2/version"), "Airflow answers")
        running.token = running.ask("/auth/token")["access_token"]
        wait_until(lambda: running.answers(f"/api/v2/dags/{dag}"), "the DAG has been read")
        yield running
