"""Every package is installed by its hash; another one is refused (row X04)."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from project_copies import ROOT, quiet_environment

LOCKS = ("requirements.lock", "requirements-uv.txt")


def requirements(name: str) -> list[str]:
    """The requirements of a lock, each with its hashes, as one line."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split(" #")[0].strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", LOCKS)
def test_x04_every_package_of_a_lock_has_its_version_and_hashes(name: str) -> None:
    found = requirements(name)
    assert found
    for line in found:
        assert re.match(r"[A-Za-z0-9_.-]+(\[[a-z,]+\])?==\S+", line), line
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", line), line


def test_x04_make_installs_nothing_without_hashes() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    installs = [line.strip() for line in text.splitlines() if "pip install" in line]
    assert len(installs) == 3
    for line in installs:
        # Ourselves, from this folder, with nothing else and no build environment.
        own = "--no-deps --no-build-isolation -e ." in line
        assert own or "--require-hashes" in line, line
    for name in LOCKS:
        assert any(f"-r {name}" in line for line in installs)


def wheel(folder: Path, content: str) -> Path:
    """A wheel of a package ``thing`` with one module."""
    files = {
        "thing.py": content,
        "thing-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n",
        "thing-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    record = "".join(f"{name},sha256={_digest(text)},{len(text)}\n" for name, text in files.items())
    path = folder / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as zipped:
        for name, text in files.items():
            zipped.writestr(name, text)
        zipped.writestr("thing-1.0.dist-info/RECORD", record + "thing-1.0.dist-info/RECORD,,\n")
    return path


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


@pytest.mark.parametrize("changed", ["nothing", "the file", "the hash", "no hash"])
def test_x04_a_package_with_another_hash_is_not_installed(tmp_path: Path, changed: str) -> None:
    path = wheel(tmp_path, "x = 1\n")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if changed == "the file":
        wheel(tmp_path, "x = 2\n")
    if changed == "the hash":
        digest = ("0" if digest[0] != "0" else "1") + digest[1:]
    line = "thing==1.0" if changed == "no hash" else f"thing==1.0 --hash=sha256:{digest}"
    (tmp_path / "requirements.lock").write_text(line + "\n")
    command = [
        sys.executable, "-m", "pip", "install", "--require-hashes", "--no-index", "--quiet",
        "--disable-pip-version-check", "--find-links", tmp_path, "--target", tmp_path / "site",
        "-r", tmp_path / "requirements.lock",
    ]  # fmt: skip
    done = subprocess.run(
        command, env=quiet_environment(), capture_output=True, text=True, timeout=120, check=False
    )
    installed = (tmp_path / "site" / "thing.py").is_file()
    assert (done.returncode == 0, installed) == (changed == "nothing",) * 2, done.stderr
    if not installed:
        assert "hash" in done.stderr.lower()
