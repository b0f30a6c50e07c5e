"""What the processor computes in: read from the system's report, less what oneDNN's caps leave."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hgnetv2_pipeline import processor

XEON = (
    "model name\t: Intel Xeon\n"
    "flags\t\t: fpu avx2 avx512f avx512_vnni amx_int8 amx_bf16 avx512_bf16"
)
EPYC = "model name\t: AMD EPYC\nflags\t\t: fpu sse2 avx2 vaes"
ALDER_LAKE = "model name\t: Intel Core\nflags\t\t: avx2 avx_vnni"
GRAVITON = "Features\t: fp asimd asimddp bf16"
RASPBERRY = "Features\t: fp asimd"


@pytest.fixture(autouse=True)
def no_caps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    yield
    processor._reported.cache_clear()


def on(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str = "Linux") -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\n{text}\n\nprocessor\t: 1\nflags\t\t: amx_int8\n")
    monkeypatch.setattr(processor, "_CPUINFO", file)
    monkeypatch.setattr(processor.platform, "system", lambda: system)
    processor._reported.cache_clear()


@pytest.mark.parametrize(
    ("text", "int8", "bf16"),
    [
        (XEON, True, True),
        (EPYC, False, False),
        (ALDER_LAKE, True, False),
        (GRAVITON, True, True),
        (RASPBERRY, True, False),
        ("model name\t: unheard of", None, None),
    ],
)
def test_the_systems_report_says_what_is_computed_exactly(
    text: str, int8: bool | None, bf16: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(text, tmp_path, monkeypatch)
    assert processor.sums_int8_exactly() is int8
    assert processor.computes_bf16() is bf16
    assert processor.features() <= processor.FEATURES


@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
@pytest.mark.parametrize(
    ("cap", "left"),
    [
        ("avx2", {"avx2"}),
        ("AVX512_CORE", {"avx2", "avx512"}),
        ("AVX512_CORE_VNNI", {"avx2", "avx512", "avx512_vnni"}),
        ("DEFAULT", {"avx2", "avx512", "avx512_vnni", "amx_int8", "amx_bf16", "avx512_bf16"}),
    ],
)
def test_a_capped_machine_is_treated_as_the_older_one(
    variable: str, cap: str, left: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(XEON, tmp_path, monkeypatch)
    monkeypatch.setenv(variable, cap)
    assert processor.features() == left
    assert processor.sums_int8_exactly() is (cap not in ("avx2", "AVX512_CORE"))


def test_a_machine_without_a_report_is_unknown_and_not_lacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "nothing")
    monkeypatch.setattr(processor.platform, "system", lambda: "Windows")
    processor._reported.cache_clear()
    assert processor.features() == frozenset()
    assert processor.sums_int8_exactly() is None
    assert "instruction sets not reported" in processor.describe()


def test_a_record_names_the_instruction_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(EPYC, tmp_path, monkeypatch)
    assert processor.describe() == "AMD EPYC (avx2; no bf16, no exact 8-bit sums)"
    on(XEON, tmp_path, monkeypatch)
    assert processor.describe().startswith("Intel Xeon (amx_bf16, amx_int8, avx2, ")


def test_the_features_of_a_mac_are_those_that_sysctl_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on("", tmp_path, monkeypatch, system="Darwin")
    asked = {"hw.optional.arm.FEAT_DotProd": "1", "hw.optional.arm.FEAT_BF16": "0"}

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, asked.get(command[-1], "") + "\n", "")

    monkeypatch.setattr(processor.subprocess, "run", run)
    assert processor.features() == {"neon_dotprod"}


def test_reading_it_imports_no_heavy_library() -> None:
    code = (
        "import sys; from hgnetv2_pipeline import processor; processor.describe();"
        "assert not {'torch', 'numpy', 'onnxruntime'} & set(sys.modules), sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
