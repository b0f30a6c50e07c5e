"""Early stopping and the best weights: both follow from the evaluations, also over a resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from train_recipes import recipe

from hgnetv2_pipeline.errors import Interrupted
from hgnetv2_pipeline.training import run
from hgnetv2_pipeline.training.best import best_steps, count_without_gain
from hgnetv2_pipeline.training.config import RunSpec
from hgnetv2_pipeline.training.run import train_run
from hgnetv2_pipeline.training.state import Score
from hgnetv2_pipeline.weights.build import build_from
from hgnetv2_pipeline.weights.load import read_metadata

Job = Callable[..., RunSpec]
# Right answers of 10 after each third step; the best two are at 9 and 6.
RIGHT = {3: 4, 6: 7, 9: 8, 12: 6, 15: 7, 18: 5, 21: 9, 24: 9}
STOPPING: dict[str, Any] = {
    "steps": 24,
    "eval_every": 1.0,
    "early_stopping": {"patience": 3, "min_delta": 0.0},
    "keep_best": 2,
}


@pytest.mark.parametrize(
    ("values", "min_delta", "since"),
    [
        ([], 0.0, 0),
        ([0.1], 0.0, 0),
        ([0.1, 0.1], 0.0, 1),
        ([0.1, 0.2, 0.1, 0.15], 0.0, 2),
        ([0.1, 0.2, 0.1, 0.3], 0.0, 0),
        # Small gains count against the best that last counted, so that they may add up.
        ([0.5, 0.54, 0.57, 0.61], 0.1, 0),
        ([0.5, 0.54, 0.57, 0.59], 0.1, 3),
    ],
)
def test_evaluations_without_gain(values: list[float], min_delta: float, since: int) -> None:
    evaluations = [(step, value, "raw") for step, value in enumerate(values)]
    assert count_without_gain(evaluations, min_delta) == since


def test_best_evaluations_of_equals_the_later() -> None:
    evaluations = [(step, value, "raw") for step, value in enumerate([0.1, 0.4, 0.4, 0.3])]
    assert best_steps(evaluations, 3) == [2, 1, 3]
    assert best_steps(evaluations, 0) == []


def test_patience_without_evaluations_on_the_way_is_refused() -> None:
    with pytest.raises(ValueError, match="patience is 3 evaluations, but eval_every is null"):
        recipe(early_stopping={"patience": 3, "min_delta": 0.0})


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    def score(network: Any, spec: Any, prepared: Any, *rest: Any) -> Score:
        return Score(10, RIGHT[prepared.state.step], None)

    monkeypatch.setattr(run, "score_on_val", score)


def files(spec: RunSpec) -> dict[str, bytes]:
    paths = [*spec.out.glob("*.safetensors"), *spec.out.glob("*.json"), *spec.out.glob("best/*")]
    names = {path.relative_to(spec.out).as_posix(): path for path in paths}
    return {name: path.read_bytes() for name, path in names.items() if name != "timing.json"}


@pytest.mark.usefixtures("scripted")
def test_run_ends_after_its_patience_and_keeps_the_best(
    job: Job, sigterm_in: Callable[[int], None]
) -> None:
    spec = job("whole", **STOPPING)
    result = train_run(spec)
    assert (result.metrics["steps"], result.metrics["stopped_early"]) == (18, True)
    assert (result.metrics["best_step"], result.metrics["val"]["top1"]) == (9, 0.8)
    # 15 did as well as 6 and is the later.
    assert sorted(path.name for path in (spec.out / "best").iterdir()) == [
        "step=00000009.safetensors",
        "step=00000015.safetensors",
    ]
    best = spec.out / "best" / "step=00000009.safetensors"
    network, _ = build_from(str(best), num_classes=2, root=spec.root)
    student, _ = build_from(str(result.student), num_classes=2, root=spec.root)
    ours, theirs = network.state_dict(), student.state_dict()
    assert all(bool((ours[name] == theirs[name]).all()) for name in ours)
    told = read_metadata(best)
    assert (told["step"], told["val"], told["weights"]) == ("9", "0.8", "raw")

    # Stopped within the patience, twice, and resumed: the same end, the same files.
    again = job("again", **STOPPING)
    for step in (10, 16):
        sigterm_in(step)
        with pytest.raises(Interrupted):
            train_run(again)
    train_run(again)
    assert files(again) == files(spec)
    # And a finished one does not go on.
    (spec.out / "result.json").unlink()
    train_run(spec)
    assert files(again) == files(spec)


@pytest.mark.usefixtures("scripted")
def test_without_patience_it_goes_to_its_end(job: Job) -> None:
    spec = job("plain", steps=24, eval_every=1.0)
    assert train_run(spec).metrics["stopped_early"] is False
    assert json.loads((spec.out / "result.json").read_text())["steps"] == 24
    assert not (spec.out / "best").exists()


@pytest.mark.usefixtures("scripted")
def test_the_last_weights_are_those_of_a_run_that_was_evaluated_once(
    job: Job, sigterm_in: Callable[[int], None]
) -> None:
    """Step 9 did better than step 18 on val; with ``keep`` last that changes nothing."""
    spec = job("last", steps=18, eval_every=1.0, keep="last")
    assert [step for step, right in RIGHT.items() if right > RIGHT[18] and step < 18]
    result = train_run(spec)
    assert (result.metrics["best_step"], result.metrics["val"]["top1"]) == (18, 0.5)
    once = train_run(job("once", steps=18, eval_every=None))
    tensors = [
        build_from(str(made.student), num_classes=2, root=spec.root)[0].state_dict()
        for made in (result, once)
    ]
    assert all(bool((tensors[0][name] == tensors[1][name]).all()) for name in tensors[0])
    again = job("again", steps=18, eval_every=1.0, keep="last")
    sigterm_in(10)
    with pytest.raises(Interrupted):
        train_run(again)
    train_run(again)
    assert files(again) == files(spec)


def test_sweep_leaves_the_best_weights_in_every_checkpoint(job: Job, tmp_path: Path) -> None:
    import torch

    spec = job("run", steps=6, eval_every=1.0, keep_checkpoints=1, ema_decay=0.5, keep_best=1)
    train_run(spec)
    [newest] = (spec.out / "checkpoints").glob("step=*")
    [kept] = (spec.out / "best").iterdir()
    best = torch.load(newest / "best.pt", weights_only=True)
    assert kept.name == f"step={best['step']:08d}.safetensors"
    assert read_metadata(kept)["weights"] == best["weights"]
