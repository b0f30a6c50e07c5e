"""Objectives and steps: frozen teachers, losses that are not finite, every image counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from train_recipes import LABELS, SSLD, recipe

from hgnetv2_pipeline.data.batches import Answers, Batch
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.models import create_model
from hgnetv2_pipeline.training import RunSpec, losses, plan_run, run, train_run
from hgnetv2_pipeline.training.config import LossConfig
from hgnetv2_pipeline.training.objectives import Distilled, Supervised, Teacher
from hgnetv2_pipeline.training.plan import Plan, relief
from hgnetv2_pipeline.training.prepare import synchronised
from hgnetv2_pipeline.training.state import State
from hgnetv2_pipeline.training.step import Step
from hgnetv2_pipeline.training.world import World

Job = Callable[..., RunSpec]


@pytest.fixture
def network() -> Callable[[int], nn.Module]:
    def make(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = create_model("nano", 4)
        # Statistics as of a trained network: without them eval and batch mode hardly differ.
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        return model

    return make


def view(images: torch.Tensor) -> torch.Tensor:
    return images.float() / 255 - 0.5


def other_view(images: torch.Tensor) -> torch.Tensor:
    return images.float() / 128 - 1


IMAGES = torch.randint(0, 256, (6, 3, 32, 32), generator=torch.Generator().manual_seed(1)).byte()


def test_ensemble_is_the_mean_of_softmax_each_on_its_own_view(
    network: Callable[[int], nn.Module],
) -> None:
    one, two = network(1).eval(), network(2).eval()
    expected = (one(view(IMAGES)).softmax(1) + two(other_view(IMAGES)).softmax(1)) / 2
    teacher = Teacher([(one, view), (two, other_view)], bn="eval")
    torch.testing.assert_close(teacher(IMAGES).softmax(1), expected.detach())
    alone = Teacher([(one, view)], bn="eval")
    torch.testing.assert_close(alone(IMAGES), one(view(IMAGES)))


@pytest.mark.parametrize("bn", ["eval", "batch"])
def test_frozen_teacher_never_drifts(network: Callable[[int], nn.Module], bn: Any) -> None:
    model, student = network(1), network(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    teacher = Teacher([(model, view)], bn=bn)
    objective = Distilled(view, teacher, LossConfig.model_validate(SSLD))
    for _ in range(3):
        loss, _ = objective(student, IMAGES, torch.full((6,), -1))
        loss.backward()
    for name, value in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_batch_statistics_differ_from_stored_ones(network: Callable[[int], nn.Module]) -> None:
    stored = Teacher([(network(1), view)], bn="eval")(IMAGES)
    batch = Teacher([(network(1), view)], bn="batch")(IMAGES)
    assert (stored - batch).abs().max() > 1e-3


def test_labels_enter_a_distillation_by_their_weight_and_only_where_known(
    network: Callable[[int], nn.Module],
) -> None:
    student, teacher = network(2).eval(), Teacher([(network(1), view)], bn="eval")
    config = {**SSLD, "gt_weight": 0.25, "label_smoothing": 0.1}
    labels = torch.tensor([0, -1, 2, -1, 3, 1])
    loss, counts = Distilled(view, teacher, LossConfig.model_validate(config))(
        student, IMAGES, labels
    )
    logits, known = student(view(IMAGES)), labels >= 0
    distilled = losses.soft_cross_entropy(logits, teacher(IMAGES))
    truth = losses.label_smoothing_cross_entropy(logits[known], labels[known], 0.1)
    torch.testing.assert_close(loss, 0.75 * distilled + 0.25 * truth)
    assert counts["teacher_agreement"] == (logits.argmax(1) == teacher(IMAGES).argmax(1)).sum()
    nobody, _ = Distilled(view, teacher, LossConfig.model_validate(config))(
        student, IMAGES, torch.full((6,), -1)
    )
    torch.testing.assert_close(nobody, distilled)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ce", losses.soft_cross_entropy),
        ("skl", losses.symmetric_kl),
        ("dist", losses.dist),
        ("kl", lambda s, t: losses.kl_divergence(s, t, temperature=4.0)),
    ],
)
def test_every_distillation_loss_is_the_one_named(
    network: Callable[[int], nn.Module], name: str, expected: Callable[..., torch.Tensor]
) -> None:
    config = {**SSLD, "name": name, "temperature": 4.0 if name == "kl" else 1.0}
    student, teacher = network(2).eval(), Teacher([(network(1), view)], bn="eval")
    loss, _ = Distilled(view, teacher, LossConfig.model_validate(config))(
        student, IMAGES, torch.zeros(6, dtype=torch.long)
    )
    torch.testing.assert_close(loss, expected(student(view(IMAGES)), teacher(IMAGES)))


@pytest.fixture
def explode_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[set[int]], None]:
    """``explode_in({2})``: the loss of step 2 is NaN, after a forward pass on absurd images."""
    plain = Supervised.__call__
    calls: list[int] = []

    def arm(steps: set[int]) -> None:
        calls.clear()

        def call(self: Supervised, student: nn.Module, *batch: Any) -> Any:
            calls.append(len(calls))
            loss, counts = plain(self, student, *batch)
            if calls[-1] in steps:
                student(torch.full((2, 3, 32, 32), math.inf))
                loss = loss * math.nan
            return loss, counts

        monkeypatch.setattr(Supervised, "__call__", call)

    return arm


def test_step_without_a_finite_loss_leaves_no_trace(
    job: Job, explode_in: Callable[[set[int]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}
    take = Step.__call__

    def watched(self: Step, batch: Any) -> Any:
        student, optimizer = self.state.student, self.state.optimizer
        before = {k: v.clone() for k, v in student.state_dict().items()}
        momenta = {id(p): s["momentum_buffer"].clone() for p, s in optimizer.state.items()}
        outcome = take(self, batch)
        same = all(torch.equal(v, before[k]) for k, v in student.state_dict().items())
        same &= all(
            torch.equal(s["momentum_buffer"], momenta[id(p)])
            for p, s in optimizer.state.items()
            if id(p) in momenta
        )
        seen[batch.step] = (outcome.applied, same)
        return outcome

    monkeypatch.setattr(Step, "__call__", watched)
    explode_in({2})
    result = train_run(job("run", steps=5))
    assert seen == {s: (s != 2, s == 2) for s in range(5)}
    assert result.metrics["steps_not_applied"] == [2]
    assert math.isfinite(result.history[-1]["loss"] or 0.0)


def test_three_steps_in_a_row_without_a_finite_loss_stop_the_run_and_name_images(
    job: Job, explode_in: Callable[[set[int]], None]
) -> None:
    explode_in({2, 4, 5, 6})
    with pytest.raises(ParameterError, match=r"steps 4 to 6 \(images train/\d\d\.png, ") as caught:
        train_run(job("run", steps=9))
    assert "and 18 more" in str(caught.value)
    assert not (job("run").out / "student.safetensors").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_is_used_once_an_epoch_whatever_the_workers(
    job: Job, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: Counter[str] = Counter()
    take = Step.__call__

    def counted(self: Step, batch: Any) -> Any:
        used.update(batch.keys)
        return take(self, batch)

    monkeypatch.setattr(Step, "__call__", counted)
    train_run(job("run", epochs=2.0, steps=None, batch_size=7, workers=workers))
    assert len(used) == 21
    assert set(used.values()) == {2}


def test_rare_class_is_drawn_as_often_or_weighs_as_much(
    job: Job, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas as pd

    frame = pd.read_parquet(pictures / "train.parquet")
    rare = frame[(frame["label"] == 0) | (frame.index < 4)]  # 11 red, 2 blue
    rare.to_parquet(tmp_path / "rare.parquet")
    labels: list[int] = []
    take = Step.__call__

    def counted(self: Step, batch: Any) -> Any:
        labels.extend(batch.labels.tolist())
        return take(self, batch)

    monkeypatch.setattr(Step, "__call__", counted)
    spec = {"train": tmp_path / "rare.parquet"}
    train_run(job("drawn", steps=20, class_balance="sampler", spec=spec))
    assert 0.35 < float(np.mean(labels)) < 0.65
    weighted = job("weighted", class_balance="weights", spec=spec)
    prepared = run.prepare(weighted, device=torch.device("cpu"), world_size=1)
    assert isinstance(prepared.objective, Supervised)
    torch.testing.assert_close(
        prepared.objective.class_weights, torch.tensor([13 / 22, 13 / 4], dtype=torch.float32)
    )


def test_averaged_weights_follow_the_raw_ones(job: Job) -> None:
    train_run(job("run", steps=4, ema_decay=0.75, loss=LABELS))
    [folder] = (job("run").out / "checkpoints").glob("step=*")
    ema, raw = (torch.load(folder / f"{name}.pt", weights_only=True) for name in ("ema", "model"))
    moved = [
        not torch.equal(ema[f"module.{name}"], value)
        for name, value in raw.items()
        if name.endswith("fc.weight")
    ]
    assert moved == [True]
    assert int(ema["n_averaged"]) == 4


def test_plan_projects_a_run_without_writing_anything(job: Job) -> None:
    spec = job("run", epochs=4.0, steps=None, batch_size=7, eval_every=1.0)
    plan = plan_run(spec, probe_steps=2)
    assert (plan.images, plan.steps, plan.images_seen) == (21, 12, 84)
    assert plan.seconds > 0
    assert plan.memory_bytes > 10**8
    assert plan_run(spec, probe_steps=1, images=210).steps == 120, "a list that is yet to be made"
    assert "21 images, 12 steps (84 images seen), about 0 min" in str(plan)
    assert not spec.out.exists()
    train_run(spec)
    written = sum(path.stat().st_size for path in spec.out.rglob("*") if path.is_file())
    assert plan.disk_bytes > 0.8 * written
    with pytest.raises(ParameterError, match="at least 1"):
        plan_run(spec, probe_steps=0)


@pytest.mark.parametrize(
    ("changes", "device", "ways"),
    [
        (
            {"augment": {"name": "published"}, "workers": 0},
            "cuda",
            ["workers=", "input.fast=true", "input.device=randaugment", "input.resized=384"],
        ),
        (
            {"augment": {"name": "published"}, "workers": 256},
            "cpu",
            ["input.fast=true", "input.resized=384"],
        ),
        ({"augment": {"name": "affine"}, "workers": 256}, "cuda", ["input.resized=384"]),
        (
            {"augment": {"name": "published"}, "workers": 256,
             "input": {"fast": False, "device": "all", "resized": 384}},
            "cuda",
            [],
        ),
    ],
)  # fmt: skip
def test_plan_names_what_would_make_batches_faster(
    job: Job, changes: dict[str, Any], device: str, ways: list[str]
) -> None:
    spec = job("run", **changes)
    told = relief(spec, torch.device(device), processes=1)
    found = told.split(", ") if told else []
    assert len(found) == len(ways)
    for text, way in zip(found, ways, strict=True):
        assert text.startswith(f"{spec.stage}.{way}")
    shown = str(Plan(21, 84, 12, 60.0, 0.4, 10**8, 10**12, 10**9, relief=told))
    assert shown.endswith(f"to wait less: {told}" if told else "GB of memory")


def test_published_rule_scales_the_rate_of_a_whole_run(job: Job) -> None:
    spec = job("run", lr=0.5, lr_batch=1024, steps=3)
    assert train_run(spec).history[-1]["lr"] == pytest.approx(
        0.5 * 8 / 1024 * 0.5 * (1 + math.cos(math.pi * 2 / 3))
    )
    assert recipe().lr_batch is None


def _objective(kind: str) -> tuple[Any, Answers | None]:
    """One without a teacher, and one whose teacher's answers (3 of 4 classes) come with a batch."""

    def double(images: torch.Tensor) -> torch.Tensor:
        return images.double() / 255

    if kind == "labels":
        return Supervised(double, 0.1), None
    numbers = torch.rand(6, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    logps, ids = numbers.log_softmax(1).topk(3)
    return Distilled(double, None, LossConfig.model_validate(SSLD)), Answers(ids, logps)


@pytest.mark.parametrize("kind", ["labels", "stored answers"])
def test_batch_worked_through_in_parts_gives_the_same_step(kind: str) -> None:
    weights, losses_, counts = [], [], []
    objective, answers = _objective(kind)
    for parts in (1, 3):
        torch.manual_seed(0)
        student = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)).double()
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
        state = State(student, optimizer, torch.amp.GradScaler("cpu", enabled=False), None)
        step = Step(
            state,
            student,
            objective,
            device=torch.device("cpu"),
            world=World(0, 1, 0),
            amp="off",
            clip_norm=1.0,
            accumulate=parts,
            seed=0,
        )
        outcome = step(Batch(IMAGES, torch.tensor([0, 1, 2, 3, 0, 1]), [], 0, 6, answers))
        weights.append(student[1].weight.detach())
        losses_.append(outcome.loss)
        counts.append((outcome.images, outcome.counts))
    # Stored answers are worked with in float32.
    exact = 1e-14 if kind == "labels" else 1e-7
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=exact)
    assert losses_[0] == pytest.approx(losses_[1], rel=exact)
    assert counts[0] == counts[1]


def test_parts_that_are_not_equal_and_bn_over_cpus_are_refused(job: Job) -> None:
    with pytest.raises(ValueError, match="batch_size 8 does not divide into accumulate 3 equal"):
        recipe(accumulate=3)
    with pytest.raises(ParameterError, match=r"sync_bn is true, but torch shares .* GPUs only"):
        run.prepare(job("run", sync_bn=True), device=torch.device("cpu"), world_size=2)
    student = create_model("nano", 2)
    names = list(student.state_dict())
    synced = synchronised(student, torch.device("cuda"))
    assert list(synced.state_dict()) == names
    assert any(isinstance(module, nn.SyncBatchNorm) for module in synced.modules())


@pytest.mark.slow
def test_compiled_student_learns_the_same(job: Job) -> None:
    plain = train_run(job("plain", steps=3))
    compiled = train_run(job("compiled", steps=3, compile=True))
    assert compiled.history[-1]["loss"] == pytest.approx(plain.history[-1]["loss"], rel=1e-4)
