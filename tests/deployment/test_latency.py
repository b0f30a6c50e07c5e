"""The protocol: what is run, what is counted, what is reported. Time is a clock of the tests'."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fake_engine import Clock, Fake

from hgnetv2_pipeline.deployment.timing import latency as latency_module
from hgnetv2_pipeline.deployment.timing import machine, peak, stopwatch
from hgnetv2_pipeline.deployment.timing.latency import compare_latency, measure_latency
from hgnetv2_pipeline.deployment.timing.peak import peak_gb_s, peak_gflops
from hgnetv2_pipeline.errors import ParameterError

SEED_PAGE_KEYS = {
    "model", "engine", "precision", "batch_size", "device", "versions", "n_warmup", "n_timed",
    "mean_ms", "p50_ms", "p90_ms", "p99_ms", "min_ms", "cpu_ms", "percent_of_peak", "gmacs",
    "percent_of_bandwidth", "clocks", "load_average", "processors",
}  # fmt: skip


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The stopwatch's time, and peaks of 100 GFLOP/s and 10 GB/s."""
    made = Clock()
    monkeypatch.setattr(stopwatch, "time", made)
    monkeypatch.setattr(latency_module, "peak_gflops", lambda *_, **__: 100.0)
    monkeypatch.setattr(latency_module, "peak_gb_s", lambda _: 10.0)
    return made


def test_the_seed_protocol_is_2100_calls_of_which_2000_count(clock: Clock) -> None:
    engine = Fake(clock)
    result = measure_latency(engine)
    assert len(engine.shapes) == 2100
    assert set(engine.shapes) == {(1, 3, 8, 8)}
    assert (result["n_warmup"], result["n_timed"], result["batch_size"]) == (100, 2000, 1)
    # Two looks at the clock for a call that counts, none for one that does not.
    assert clock.looks == 2 * 2000


def test_a_sleep_is_measured_and_is_wall_time_not_cpu_time(clock: Clock) -> None:
    result = measure_latency(Fake(clock, 0.02, 0.003), warmup=1, runs=10)
    for name in ("min_ms", "p50_ms", "mean_ms", "p90_ms", "p99_ms"):
        assert result[name] == pytest.approx(20, rel=0.1)
    assert result["cpu_ms"] == pytest.approx(3)
    assert "gpu_p50_ms" not in result
    assert "without_copies" not in result


def test_the_percentiles_are_those_of_the_calls(clock: Clock) -> None:
    engine = Fake(clock)
    walls = iter([9.0, *range(1, 101)])
    engine._work = lambda: setattr(clock, "wall", clock.wall + next(walls))  # type: ignore[method-assign]
    result = measure_latency(engine, warmup=1, runs=100)
    seconds = [result[f"{name}_ms"] / 1e3 for name in ("min", "mean", "p50", "p90", "p99")]
    assert seconds == pytest.approx([1, 50.5, 50.5, 90.1, 99.01])


def test_on_a_gpu_the_protocol_runs_with_copies_and_again_without(clock: Clock) -> None:
    engine = Fake(clock, 0.25, gpu=0.125, macs=1_000_000)
    result = measure_latency(engine, warmup=3, runs=5)
    assert (len(engine.shapes), engine.resident_calls) == (8, 8)
    assert (result["p50_ms"], result["gpu_p50_ms"]) == (750, 125)
    bare = result["without_copies"]
    assert (bare["p50_ms"], bare["gpu_mean_ms"], bare["gpu_p99_ms"]) == (250, 125, 125)
    # The share of the peak is the GPU's, while it works.
    assert result["percent_of_peak"] == pytest.approx(100 * 2e6 / 0.125 / 100e9)


def test_the_result_is_the_agreed_json(clock: Clock) -> None:
    result = measure_latency(Fake(clock, 0.01, macs=1_000_000), batch_size=4, warmup=0, runs=2)
    assert result.keys() >= SEED_PAGE_KEYS
    assert json.loads(json.dumps(result)) == result
    assert (result["engine"], result["variant"], result["image_size"]) == ("fake", "b0", 8)
    assert (result["gmacs"], result["peak_gflops"], result["peak_gb_s"]) == (0.001, 100, 10)
    assert result["percent_of_peak"] == pytest.approx(100 * 2 * 1e6 * 4 / 0.01 / 100e9)
    assert result["percent_of_bandwidth"] == pytest.approx(100 * 4 * (1000 + 4 * 500) / 0.01 / 1e10)
    unknown = measure_latency(Fake(clock, 0.01), warmup=0, runs=1)
    assert (unknown["percent_of_peak"], unknown["percent_of_bandwidth"]) == (None, None)


def test_the_peaks_are_plausible_and_measured_once() -> None:
    first = peak_gflops("cpu", threads=1)
    assert first is not None
    assert first > 1
    assert peak_gflops("cpu", threads=1) == first
    copied = peak_gb_s("cpu")
    assert copied is not None
    assert copied > 0.1


def test_a_gpu_without_room_for_the_peaks_costs_no_measurement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    fake = SimpleNamespace(
        randn=full, empty=full, float32=torch.float32, uint8=torch.uint8, backends=torch.backends,
        OutOfMemoryError=torch.OutOfMemoryError,
    )  # fmt: skip
    monkeypatch.setattr(peak, "_torch_with_cuda", lambda: fake)
    for peak_of in (peak_gb_s, peak._gpu_peak):
        peak_of.cache_clear()
    assert peak_gflops("cuda", precision="fp32") is None
    assert peak_gb_s("cuda") is None
    for peak_of in (peak_gb_s, peak._gpu_peak):
        peak_of.cache_clear()


def test_comparison_runs_in_turn_and_turns_round_every_second_time(clock: Clock) -> None:
    diary: list[str] = []
    engines = {name: Fake(clock, diary=diary, label=name) for name in ("x", "y")}
    compare_latency(engines, warmup=1, rounds=2, runs_per_round=2, untimed_per_round=1)
    assert "".join(diary) == "xy" + "xxx" + "yyy" + "yyy" + "xxx"


def test_comparison_gives_a_row_and_a_ratio_each(clock: Clock) -> None:
    engines = {"slow": Fake(clock, 0.02, 0.01), "fast": Fake(clock, 0.004, 0.005)}
    result = compare_latency(engines, warmup=0, rounds=2, runs_per_round=3, untimed_per_round=0)
    assert [row["label"] for row in result["rows"]] == ["slow", "fast"]
    assert all(row["n_timed"] == 6 and row.keys() >= SEED_PAGE_KEYS for row in result["rows"])
    assert result["ratios"]["slow"] == {"cpu": 1.0, "wall": 1.0}
    assert result["ratios"]["fast"] == pytest.approx({"cpu": 2.0, "wall": 5.0})


def test_gpus_are_compared_by_their_own_time_too(clock: Clock) -> None:
    engines = {"a": Fake(clock, 1, 1, gpu=0.5), "b": Fake(clock, 1, 1, gpu=0.125)}
    ratios = compare_latency(engines, warmup=0, rounds=1, runs_per_round=1)["ratios"]
    assert ratios["b"] == {"cpu": 1, "wall": 1, "gpu": 4}


@pytest.mark.parametrize("counts", [{"runs": 0}, {"warmup": -1}, {"batch_size": 0}])
def test_counts_that_make_no_sense_are_refused(counts: dict[str, int], clock: Clock) -> None:
    (name,) = counts
    with pytest.raises(ParameterError, match=f"{name}="):
        measure_latency(Fake(clock), **counts)


def test_a_comparison_of_nothing_is_refused() -> None:
    with pytest.raises(ParameterError, match="no engine"):
        compare_latency({})


def test_a_gpus_driver_and_clocks_are_what_nvidia_smi_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\necho "A GPU, 1.2, 1980 MHz, 1980 MHz, 2619 MHz, 700.00 W, 31"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = machine.clocks("cuda")
    assert (found["name"], found["driver_version"], found["clocks.sm"]) == (
        "A GPU", "1.2", "1980 MHz",
    )  # fmt: skip
    program.write_text("#!/bin/sh\necho no devices were found\n")
    assert machine.clocks("cuda") == {}


@pytest.mark.parametrize(
    ("visible", "asked"), [(None, "0"), ("5,6", "5"), ("GPU-ab12", "GPU-ab12")]
)
def test_the_gpu_asked_for_its_clocks_is_the_one_that_works(
    visible: str | None, asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    machine.clocks("cuda")
    assert f"--id={asked}" in (tmp_path / "asked").read_text().split()
