"""mode=auto: the fastest way that computes the same, kept for as long as the run goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
import torch

from hgnetv2_pipeline import processor
from hgnetv2_pipeline.errors import Interrupted
from hgnetv2_pipeline.training import autotune
from hgnetv2_pipeline.training.autotune import Mode, Trial, choose_mode
from hgnetv2_pipeline.training.config import RunSpec
from hgnetv2_pipeline.training.run import train_run

PLAIN, HALF, OTHER = Mode("off", True, False), Mode("bf16", True, False), Mode("off", False, False)
ALONG = torch.tensor([1.0, 2.0, -1.0])


def test_fastest_sound_mode_is_chosen_and_all_are_told() -> None:
    trials = {
        PLAIN: Trial(0.030, [2.0, 1.0], ALONG),
        HALF: Trial(0.010, [2.01, 1.01], ALONG + 0.1),
        OTHER: Trial(0.020, [2.0, 1.0], ALONG),
    }
    best, reason = choose_mode(trials)
    assert best == HALF
    assert reason == "off channels_last 30.0 ms; bf16 channels_last 10.0 ms; off contiguous 20.0 ms"


@pytest.mark.parametrize(
    ("losses", "direction", "fault"),
    [
        ([2.0, 1.1], ALONG, "loss 10.0% off"),
        ([2.0, math.nan], ALONG, "loss nan% off"),
        ([2.0, 1.0], -ALONG, "direction -1.00"),
        ([2.0, 1.0], ALONG * math.nan, "direction nan"),
    ],
)
def test_mode_that_computes_something_else_is_not_chosen_however_fast(
    losses: list[float], direction: torch.Tensor, fault: str
) -> None:
    trials = {PLAIN: Trial(0.03, [2.0, 1.0], ALONG), HALF: Trial(0.01, losses, direction)}
    best, reason = choose_mode(trials)
    assert best == PLAIN
    assert f"bf16 channels_last 10.0 ms ({fault})" in reason


@pytest.mark.parametrize(
    ("device", "has", "tried"),
    [
        ("cpu", [], {"off"}),
        ("cpu", ["avx2", "avx512", "avx512_vnni", "amx_int8"], {"off"}),
        ("cpu", ["avx512_bf16"], {"off", "bf16"}),
        ("cpu", ["amx_bf16"], {"off", "bf16"}),
        ("cuda", [], {"off", "bf16", "fp16"}),
    ],
)
def test_auto_never_takes_a_precision_that_the_processor_has_no_units_for(
    device: str, has: list[str], tried: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "features", lambda: frozenset(has))
    assert {mode.amp for mode in autotune._modes(torch.device(device))} == tried


def test_run_keeps_its_mode_when_it_goes_on(
    job: Callable[..., RunSpec],
    sigterm_in: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processor, "features", lambda: frozenset({"amx_bf16"}))
    monkeypatch.setattr(autotune, "STEPS", 2)
    spec = job("run", mode="auto", steps=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autotune, "choose_mode", lambda trials: (list(trials)[2], "for the test"))
        tried = autotune.settle_mode(spec, torch.device("cpu"), autotune.World(0, 1, 0))
    assert (tried.config.amp, tried.config.channels_last) == ("bf16", True)
    sigterm_in(1)
    with pytest.raises(Interrupted):
        train_run(spec)
    sigterm_in(-1)
    monkeypatch.setattr(autotune, "choose_mode", lambda trials: pytest.fail("chosen again"))
    train_run(spec)
    assert json.loads((spec.out / "mode.json").read_text())["mode"]["amp"] == "bf16"
    folder = max((spec.out / "checkpoints").glob("step=*"))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["identity"]["training"]["amp"] == "bf16"


def test_a_real_trial_finds_float32_at_the_least(
    job: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "features", lambda: frozenset({"amx_bf16"}))
    monkeypatch.setattr(autotune, "STEPS", 3)
    spec = job("run", mode="auto")
    found = autotune.settle_mode(spec, torch.device("cpu"), autotune.World(0, 1, 0)).config
    written = json.loads((spec.out / "mode.json").read_text())
    assert written["mode"] == {
        "amp": found.amp, "channels_last": found.channels_last, "compile": False,
    }  # fmt: skip
    assert written["reason"].count(" ms") == 4
