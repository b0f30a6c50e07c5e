"""The protocol: what is run, what is counted, what is reported."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from hgnetv2_pipeline.data import Preprocess
from hgnetv2_pipeline.deployment import Engine, ModelCard, compare_latency, measure_latency
from hgnetv2_pipeline.deployment import latency as latency_module
from hgnetv2_pipeline.deployment.matmul_peak import peak_gflops
from hgnetv2_pipeline.errors import ParameterError

SEED_PAGE_KEYS = {
    "model", "engine", "precision", "batch_size", "device", "versions", "n_warmup", "n_timed",
    "mean_ms", "p50_ms", "p90_ms", "p99_ms", "min_ms", "cpu_ms", "percent_of_peak", "gmacs",
}  # fmt: skip


class Fake(Engine):
    """Counts its calls, notes them in a shared diary, and sleeps while it 'computes'."""

    name = "fake"

    def __init__(
        self, seconds: float = 0.0, *, macs: int | None = None, diary: list[str] | None = None,
        label: str = "fake",
    ) -> None:  # fmt: skip
        card = ModelCard(preprocess=Preprocess(8, 8), classes=("a", "b"), variant="b0", macs=macs)
        super().__init__(model=label, card=card, device="none", threads=1)
        self.seconds, self.diary, self.shapes = seconds, diary, []

    def _run(self, images: np.ndarray) -> np.ndarray:
        self.shapes.append(images.shape)
        if self.diary is not None:
            self.diary.append(self.model)
        time.sleep(self.seconds)
        return np.zeros((len(images), 2), np.float32)


def test_the_seed_protocol_is_2100_calls_of_which_2000_count() -> None:
    engine = Fake()
    result = measure_latency(engine)
    assert len(engine.shapes) == 2100
    assert set(engine.shapes) == {(1, 3, 8, 8)}
    assert (result["n_warmup"], result["n_timed"], result["batch_size"]) == (100, 2000, 1)


def test_warm_up_calls_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Fake()
    clock = iter(np.repeat(np.arange(1000.0), 1))

    # Every look at the clock is one second later; the warm-up must not look.
    monkeypatch.setattr(
        latency_module,
        "time",
        type("Clock", (), {"perf_counter": lambda: next(clock), "process_time": lambda: 5.0}),
    )
    result = measure_latency(engine, warmup=7, runs=3)
    assert len(engine.shapes) == 10
    assert (result["p50_ms"], result["mean_ms"], result["min_ms"]) == (1000.0, 1000.0, 1000.0)
    assert next(clock) == 6.0
    assert result["cpu_ms"] == 0.0


def test_a_sleep_is_wall_time_and_not_cpu_time() -> None:
    result = measure_latency(Fake(0.02), warmup=1, runs=10)
    for name in ("min_ms", "p50_ms", "mean_ms", "p90_ms", "p99_ms"):
        assert result[name] >= 20
    assert result["min_ms"] <= result["p50_ms"] <= result["p90_ms"] <= result["p99_ms"]
    assert result["cpu_ms"] < result["p50_ms"]


def test_the_result_is_the_agreed_json() -> None:
    result = measure_latency(Fake(macs=1_000_000), batch_size=4, warmup=0, runs=2)
    assert result.keys() >= SEED_PAGE_KEYS
    assert json.loads(json.dumps(result)) == result
    assert (result["engine"], result["variant"], result["image_size"]) == ("fake", "b0", 8)
    assert result["gmacs"] == 0.001


def test_percent_of_peak_is_twice_the_macs_over_p50_and_the_measured_peak() -> None:
    result = measure_latency(Fake(0.001, macs=2_000_000), batch_size=4, warmup=0, runs=5)
    rate = 2 * 2_000_000 * 4 / (result["p50_ms"] / 1e3)
    assert result["percent_of_peak"] == pytest.approx(100 * rate / (result["peak_gflops"] * 1e9))
    assert measure_latency(Fake(), warmup=0, runs=1)["percent_of_peak"] is None


def test_the_probe_finds_a_plausible_rate_and_measures_once() -> None:
    first = peak_gflops("ort", 1)
    assert first is not None
    assert first > 1
    assert peak_gflops("openvino", 1) == first


def test_comparison_runs_in_turn_and_turns_round_every_second_time() -> None:
    diary: list[str] = []
    engines = {name: Fake(diary=diary, label=name) for name in ("x", "y")}
    compare_latency(engines, warmup=1, rounds=2, runs_per_round=2, untimed_per_round=1)
    assert "".join(diary) == "xy" + "xxx" + "yyy" + "yyy" + "xxx"


def test_comparison_gives_a_row_and_a_ratio_each() -> None:
    engines = {"slow": Fake(0.02), "fast": Fake(0.002)}
    result = compare_latency(engines, warmup=0, rounds=2, runs_per_round=3, untimed_per_round=0)
    assert [row["label"] for row in result["rows"]] == ["slow", "fast"]
    assert all(row["n_timed"] == 6 and row.keys() >= SEED_PAGE_KEYS for row in result["rows"])
    assert result["ratios"]["slow"]["wall"] == 1.0
    assert result["ratios"]["fast"]["wall"] > 1


@pytest.mark.parametrize("counts", [{"runs": 0}, {"warmup": -1}, {"batch_size": 0}])
def test_counts_that_make_no_sense_are_refused(counts: dict[str, int]) -> None:
    (name,) = counts
    with pytest.raises(ParameterError, match=f"{name}="):
        measure_latency(Fake(), **counts)


def test_a_comparison_of_nothing_is_refused() -> None:
    with pytest.raises(ParameterError, match="no engine"):
        compare_latency({})
