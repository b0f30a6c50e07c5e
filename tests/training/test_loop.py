"""Objectives and steps: frozen teachers, losses that are not finite, every image counted."""

from __future__ import annotations

import itertools
import math
import re
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed, nn
from train_recipes import ADAMW, FOCAL, LABELS, SSLD, recipe

from hgnetv2_pipeline import devices, processor
from hgnetv2_pipeline.data.quarantine import Ledger
from hgnetv2_pipeline.devices import choose_device
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.input.batches import Answers, Batch
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.processes.group import World
from hgnetv2_pipeline.teacher.teacher import Member, Teacher
from hgnetv2_pipeline.training import loop, losses, plan, run
from hgnetv2_pipeline.training.config import DistributedConfig, LossConfig, RunSpec
from hgnetv2_pipeline.training.objectives import DistillationObjective, SupervisedObjective
from hgnetv2_pipeline.training.plan import Plan, plan_run, relief, slow_amp
from hgnetv2_pipeline.training.prepare import synchronise_batch_norm
from hgnetv2_pipeline.training.run import train_run
from hgnetv2_pipeline.training.schedule import lr_at
from hgnetv2_pipeline.training.state import RunningMean, State
from hgnetv2_pipeline.training.step import Step, step_seed

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
    teacher = Teacher([Member(one, view), Member(two, other_view)], bn="eval")
    torch.testing.assert_close(teacher(IMAGES).softmax(1), expected.detach())
    alone = Teacher([Member(one, view)], bn="eval")
    torch.testing.assert_close(alone(IMAGES), one(view(IMAGES)))


@pytest.mark.parametrize("bn", ["eval", "batch"])
def test_frozen_teacher_never_drifts(network: Callable[[int], nn.Module], bn: Any) -> None:
    model, student = network(1), network(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    teacher = Teacher([Member(model, view)], bn=bn)
    objective = DistillationObjective(view, teacher, LossConfig.model_validate(SSLD))
    for _ in range(3):
        loss, _ = objective(student, IMAGES, torch.full((6,), -1))
        loss.backward()
    for name, value in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_batch_statistics_differ_from_stored_ones(network: Callable[[int], nn.Module]) -> None:
    stored = Teacher([Member(network(1), view)], bn="eval")(IMAGES)
    batch = Teacher([Member(network(1), view)], bn="batch")(IMAGES)
    assert (stored - batch).abs().max() > 1e-3


def test_labels_enter_a_distillation_by_their_weight_and_only_where_known(
    network: Callable[[int], nn.Module],
) -> None:
    student, teacher = network(2).eval(), Teacher([Member(network(1), view)], bn="eval")
    config = {**SSLD, "gt_weight": 0.25, "label_smoothing": 0.1}
    labels = torch.tensor([0, -1, 2, -1, 3, 1])
    loss, counts = DistillationObjective(view, teacher, LossConfig.model_validate(config))(
        student, IMAGES, labels
    )
    logits, known = student(view(IMAGES)), labels >= 0
    distilled = losses.soft_cross_entropy(logits, teacher(IMAGES))
    truth = losses.label_smoothing_cross_entropy(logits[known], labels[known], 0.1)
    torch.testing.assert_close(loss, 0.75 * distilled + 0.25 * truth)
    assert counts["teacher_agreement"] == (logits.argmax(1) == teacher(IMAGES).argmax(1)).sum()
    nobody, _ = DistillationObjective(view, teacher, LossConfig.model_validate(config))(
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
    student, teacher = network(2).eval(), Teacher([Member(network(1), view)], bn="eval")
    loss, _ = DistillationObjective(view, teacher, LossConfig.model_validate(config))(
        student, IMAGES, torch.zeros(6, dtype=torch.long)
    )
    torch.testing.assert_close(loss, expected(student(view(IMAGES)), teacher(IMAGES)))


@pytest.fixture
def explode_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``explode_in({2})``: the loss of step 2 is NaN, after a forward pass on absurd images; or of
    a sound pass the ``gradient`` is."""
    plain = SupervisedObjective.__call__
    calls: list[int] = []

    def arm(steps: set[int], what: str = "loss") -> None:
        calls.clear()

        def call(self: SupervisedObjective, student: nn.Module, *batch: Any) -> Any:
            calls.append(len(calls))
            loss, counts = plain(self, student, *batch)
            if calls[-1] in steps:
                if what == "gradient":
                    return loss + (0 * loss).sqrt(), counts
                student(torch.full((2, 3, 32, 32), math.inf, device=loss.device))
                loss = loss * math.nan
            return loss, counts

        monkeypatch.setattr(SupervisedObjective, "__call__", call)

    return arm


# Row P08 of docs/reliability.md.
@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("loss", {"ema_decay": 0.5}),
        ("gradient", {"ema_decay": 0.5}),
        ("gradient", {"clip_norm": 1.0, "optimizer": ADAMW}),
        pytest.param(
            "gradient",
            {"amp": "bf16", "ema_decay": 0.5, "spec": {"device": "cuda"}},
            marks=pytest.mark.gpu,
        ),
    ],
)
def test_step_without_finite_numbers_leaves_no_trace(
    job: Job,
    explode_in: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    changes: dict[str, Any],
) -> None:
    seen = {}
    take = Step.__call__

    def trace(state: State) -> dict[Any, torch.Tensor]:
        found = dict(state.student.named_parameters())
        if what == "loss":  # else the forward pass was sound
            found |= dict(state.student.named_buffers())
            assert state.ema is not None
            found |= {f"ema {name}": value for name, value in state.ema.state_dict().items()}
        for p, values in state.optimizer.state.items():
            found |= {(id(p), name): value for name, value in values.items()}
        return {name: value.detach().clone() for name, value in found.items()}

    def watched(self: Step, batch: Any) -> Any:
        before = trace(self.state)
        outcome = take(self, batch)
        after = trace(self.state)
        same = all(torch.equal(after[name], value) for name, value in before.items())
        seen[batch.step] = (outcome.applied, same)
        return outcome

    monkeypatch.setattr(Step, "__call__", watched)
    explode_in({2}, what)
    result = train_run(job("run", steps=5, **changes))
    assert seen == {s: (s != 2, s == 2) for s in range(5)}
    assert result.metrics["steps_not_applied"] == [2]
    assert math.isfinite(result.history[-1]["loss"] or 0.0)


@pytest.mark.parametrize(
    ("variant", "layers"),
    [("nano", None), ("b4", ["stem.stem1", "stages.1.blocks.0.layers.2", "stages.3.downsample"])],
)
def test_what_is_not_finite_behind_a_layer_reaches_the_gradients_that_are_looked_at(
    variant: str, layers: list[str] | None
) -> None:
    torch.manual_seed(0)
    student = create_model(variant, 4).train()
    state = State(
        student=student,
        optimizer=torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, fused=True),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        ema=None,
    )
    step = Step(
        state, student, SupervisedObjective(view, 0.1), device=torch.device("cpu"),
        world=World(0, 1, 0), amp="off", clip_norm=None, seed=0,
    )  # fmt: skip
    assert sum(p.numel() for p in step.judged) < sum(p.numel() for p in step.weights) / 10
    found = [name for name, module in student.named_modules() if hasattr(module, "conv")]
    batch = Batch(IMAGES, torch.tensor([0, 1, 2, 3, 0, 1]), [], 0, 6)
    assert step(batch).applied
    for name in layers or found:
        layer = student.get_submodule(name)

        def spoiled(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            output.register_hook(lambda grad: torch.where(grad != 0, math.inf, grad))

        handle = layer.register_forward_hook(spoiled)
        before = [p.detach().clone() for p in step.weights]
        assert not step(batch).applied, name
        assert all(torch.equal(a, b) for a, b in zip(before, step.weights, strict=True)), name
        handle.remove()


def test_a_step_is_fast_and_everything_around_it_has_the_plain_layers(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W1: evaluations, checkpoints, averages and whoever has the student; resumed runs too."""
    kinds: dict[str, list[bool]] = {"step": [], "evaluation": [], "average": []}

    def is_plain(network: nn.Module) -> bool:
        return all("Fast" not in type(module).__name__ for module in network.modules())

    def watch(owner: Any, name: str, kind: str, at: int) -> None:
        inner = getattr(owner, name)

        def watched(*given: Any, **named: Any) -> Any:
            kinds[kind].append(is_plain(given[at]))
            return inner(*given, **named)

        monkeypatch.setattr(owner, name, watched)

    watch(SupervisedObjective, "__call__", "step", 1)
    watch(run, "score_on_val", "evaluation", 0)
    watch(RunningMean, "update_parameters", "average", 1)
    train_run(job("run", steps=4, ema_decay=0.5))
    assert {kind: set(found) for kind, found in kinds.items()} == {
        "step": {False}, "evaluation": {True}, "average": {True},
    }  # fmt: skip


# Row P08 of docs/reliability.md.
def test_three_steps_in_a_row_without_finite_numbers_stop_the_run_and_name_images(
    job: Job, explode_in: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    explode_in({2, 4, 5, 6}, "gradient")
    with pytest.raises(ParameterError, match=r"steps 4 to 6 \(images train/\d\d\.png, ") as caught:
        train_run(job("run", steps=9))
    assert "and 18 more" in str(caught.value)
    assert re.search(r"step 2 is not applied, its loss is [\d.]+ but a gradient is", caplog.text)
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
    assert isinstance(prepared.objective, SupervisedObjective)
    torch.testing.assert_close(
        prepared.objective.class_weights, torch.tensor([13 / 22, 13 / 4], dtype=torch.float32)
    )
    # Own ones: the same ratio gives the same weights, by name and by number.
    for own in ({"blue": 5.5}, [2, 11]):
        loss = FOCAL | {"class_weights": own}
        prepared = run.prepare(
            job("own", loss=loss, spec=spec), device=torch.device("cpu"), world_size=1
        )
        assert isinstance(prepared.objective, SupervisedObjective)
        assert prepared.objective.gamma == 2.0
        torch.testing.assert_close(
            prepared.objective.class_weights, torch.tensor([13 / 22, 13 / 4], dtype=torch.float32)
        )


def test_a_run_learns_by_the_focal_loss(job: Job) -> None:
    focal = train_run(job("focal", loss=FOCAL, steps=2))
    plain = train_run(job("plain", loss=FOCAL | {"gamma": 0.0}, steps=2))
    assert 0 < focal.history[-1]["loss"] < plain.history[-1]["loss"]


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"green": 2.0}, "unknown class 'green'.*loss.class_weights"),
        ([1.0, 2.0, 3.0], "3 class weights for 2 classes.*loss.class_weights"),
    ],
)
def test_weights_of_other_classes_are_refused(job: Job, own: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        train_run(job("run", loss=LABELS | {"class_weights": own}))


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")
def test_a_step_waits_for_a_gpu_with_its_loss_and_counts_alone(job: Job) -> None:
    spec = job("run", amp="bf16", ema_decay=0.9, erasing=0.5, spec={"device": "cuda"})
    device, world = torch.device("cuda", 0), World(0, 1, 0)
    prepared = run.prepare(spec, device=device, world_size=1)
    step = run.make_step(prepared, spec, device, world)
    batches = run.make_batches(prepared, spec, world, Ledger(21, 0), steps=3, workers=0)
    first, second, third = (replace(batch, labels=batch.labels.to(device)) for batch in batches)
    step(first)
    step(second)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step(third)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    where = [Path(warning.filename).name for warning in caught]
    assert set(where) == {"step.py"} and len(where) == 2, [str(one.message) for one in caught]


def test_averaged_weights_and_statistics_are_the_running_mean_of_the_raw_ones(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    mean: dict[str, torch.Tensor] = {}
    take = Step.__call__

    def averaged(self: Step, batch: Any) -> Any:
        outcome = take(self, batch)
        for name, value in self.state.student.state_dict().items():
            if value.is_floating_point():
                before = mean.get(name, value.double())  # of the first step a copy
                mean[name] = 0.75 * before + 0.25 * value.double()
        return outcome

    monkeypatch.setattr(Step, "__call__", averaged)
    train_run(job("run", steps=4, ema_decay=0.75, lr=0.1))
    [folder] = (job("run").out / "checkpoints").glob("step=*")
    ema, raw = (torch.load(folder / f"{name}.pt", weights_only=True) for name in ("ema", "model"))
    assert int(ema["n_averaged"]) == 4
    assert any(name.endswith("running_var") for name in mean)
    for name, value in mean.items():
        torch.testing.assert_close(ema[f"module.{name}"].double(), value, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(ema["module.fc.weight"], raw["fc.weight"], atol=1e-3)


def test_progress_tells_the_share_of_waiting(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr(loop.Progress, "advance", lambda self, note: notes.append(note))
    train_run(job("run", steps=3))
    assert len(notes) == 3
    assert all(re.fullmatch(r"loss [\d.]+, \d+% waiting for images", note) for note in notes)


def test_plan_projects_a_run_without_writing_anything(job: Job) -> None:
    spec = job("run", epochs=4.0, steps=None, batch_size=7, eval_every=1.0)
    plan = plan_run(spec, timed_steps=2)
    assert (plan.images, plan.steps, plan.images_seen) == (21, 12, 84)
    assert plan.seconds > 0
    assert plan.memory_bytes > 10**8
    assert plan_run(spec, timed_steps=1, images=210).steps == 120, "a list that is yet to be made"
    assert re.match(r"21 images, 12 steps \(84 images seen\), about [\d.]+ s", str(plan))
    assert not spec.out.exists()
    train_run(spec)
    written = sum(path.stat().st_size for path in spec.out.rglob("*") if path.is_file())
    assert plan.disk_bytes > 0.8 * written
    with pytest.raises(ParameterError, match="at least 1"):
        plan_run(spec, timed_steps=0)


def test_plan_gives_the_memory_of_its_timed_steps_back(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    students, left = [], []

    def watched(*args: Any, **kwargs: Any) -> Any:
        prepared = run.prepare(*args, **kwargs)
        students.append(weakref.ref(prepared.state.student))
        return prepared

    monkeypatch.setattr(plan, "prepare", watched)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: left.append(students[0]()))
    plan_run(job("run"), timed_steps=1)
    assert left == [None], "the GPU's memory is free for the processes that train"


@pytest.mark.parametrize("work", [train_run, plan_run])
def test_a_gpu_that_is_too_small_is_told_with_what_to_change(
    job: Job, monkeypatch: pytest.MonkeyPatch, work: Callable[[RunSpec], object]
) -> None:
    def full(self: Step, batch: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee ...")

    monkeypatch.setattr(Step, "__call__", full)
    with pytest.raises(
        ParameterError, match=r"hold 4 images of 32 .*lower train\.batch_size"
    ) as told:
        work(job("run", accumulate=2))
    assert "\n" not in str(told.value) and "Tried to allocate 2.00 GiB." in str(told.value)


@pytest.mark.parametrize(("name", "rank"), [("cuda:2", 0), ("cuda", 2), ("auto", 2)])
def test_a_gpu_that_is_not_there_is_told(
    name: str, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(devices, "_DRIVERS", ("null",))  # so that torch is asked
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    with pytest.raises(ParameterError, match="GPU 2 of this machine, which has 2"):
        choose_device(name, rank)
    assert choose_device("auto", 1) == choose_device("cuda:1") == torch.device("cuda:1")
    assert chosen == [torch.device("cuda:1")] * 2
    with pytest.raises(ParameterError, match="each process needs its own"):
        two = {"nproc_per_node": 2, "nnodes": 1, "rdzv_endpoint": None, "max_restarts": 0}
        DistributedConfig.model_validate(two).processes_here("cuda:1")


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
    told = relief(spec, torch.device(device), processes=1, short=3000)
    assert "resized" not in relief(spec, torch.device(device), processes=1, short=500)
    teacher = spec.model_copy(update={"stage": "train_teacher"})
    assert relief(teacher, torch.device(device), processes=1, short=3000) == told.replace(
        f"{spec.stage}.", "train_teacher.recipe."
    )
    found = told.split(", ") if told else []
    assert len(found) == len(ways)
    for text, way in zip(found, ways, strict=True):
        assert text.startswith(f"{spec.stage}.{way}")
    shown = str(Plan(21, 84, 12, 60.0, 0.4, 10**8, 10**12, 10**9, relief=told))
    assert shown.endswith(f"to wait less: {told}" if told else "GB of memory")


@pytest.mark.parametrize("has", [[], ["amx_bf16"]])
@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("mode", ["as_set", "auto"])
def test_plan_names_a_precision_that_is_slow_here_where_it_was_chosen(
    job: Job, monkeypatch: pytest.MonkeyPatch, has: list[str], amp: str, mode: str
) -> None:
    monkeypatch.setattr(processor, "features", lambda: frozenset(has))
    spec = job("run", amp=amp, mode=mode)
    told = slow_amp(spec.config, spec.place, torch.device("cpu"))
    if amp == "bf16" and not has and mode == "as_set":
        assert f"{spec.stage}.amp=bf16: without bf16 units this processor takes" in told
        assert told.endswith(f"set {spec.stage}.amp=off")
        assert str(plan_run(spec, timed_steps=1)).endswith(f"; {told}")
    else:
        assert told == ""
    assert slow_amp(spec.config, spec.place, torch.device("cuda")) == ""


def test_published_rule_scales_the_rate_of_a_whole_run(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    take = Step.__call__

    def watched(self: Step, batch: Any) -> Any:
        rates.append(self.state.optimizer.param_groups[0]["lr"])
        return take(self, batch)

    monkeypatch.setattr(Step, "__call__", watched)
    train_run(job("climbing", lr=0.5, steps=8, warmup_epochs=4 * 8 / 21))
    assert rates == [lr_at(step, 0.5, 8, 4) for step in range(8)]
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
        return SupervisedObjective(double, 0.1), None
    numbers = torch.rand(6, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    logps, ids = numbers.log_softmax(1).topk(3)
    return DistillationObjective(double, None, LossConfig.model_validate(SSLD)), Answers(ids, logps)


@pytest.mark.parametrize("kind", ["labels", "stored answers"])
def test_batch_worked_through_in_parts_gives_the_same_step(kind: str) -> None:
    weights, losses_, counts = [], [], []
    objective, answers = _objective(kind)
    for parts in (1, 3):
        torch.manual_seed(0)
        student = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)).double()
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, fused=True)
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


def test_every_step_of_every_process_draws_its_own_numbers() -> None:
    every = list(itertools.product(range(2), range(50), range(3)))
    seeds = {step_seed(*one) for one in every}
    assert len(seeds) == len(every)
    assert min(seeds) >= 0 and max(seeds) < 2**63


class Twins(World):
    """Two processes with the same batch."""

    def sum(self, values: Sequence[float]) -> list[float]:
        return [2 * value for value in values]


def test_loss_of_several_processes_is_their_mean_and_counts_are_sums() -> None:
    outcomes = []
    for world in (World(0, 1, 0), Twins(0, 2, 0)):
        torch.manual_seed(0)
        student = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1, fused=True)
        state = State(student, optimizer, torch.amp.GradScaler("cpu", enabled=False), None)
        step = Step(
            state,
            student,
            SupervisedObjective(view, 0.1),
            device=torch.device("cpu"),
            world=world,
            amp="off",
            clip_norm=None,
            seed=0,
        )
        outcomes.append(step(Batch(IMAGES, torch.tensor([0, 1, 2, 3, 0, 1]), [], 0, 6)))
    one, two = outcomes
    assert (two.loss, two.images) == (one.loss, 12)
    assert two.counts == {"train_top1": 2 * one.counts["train_top1"]}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("scaled", [False, True])
def test_gradients_are_clipped_by_their_global_norm(scaled: bool, device: str) -> None:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)).to(device)
    images, labels = IMAGES.to(device), torch.tensor([0, 1, 2, 3, 0, 1], device=device)
    loss = losses.label_smoothing_cross_entropy(student(images / 255), labels, 0.1)
    gradients = torch.autograd.grad(loss, list(student.parameters()))
    norm = math.sqrt(sum(float((each**2).sum()) for each in gradients))
    before = [p.detach().clone() for p in student.parameters()]
    step = Step(
        State(
            student,
            torch.optim.SGD(student.parameters(), lr=1.0, fused=True),
            torch.amp.GradScaler(
                "cpu", enabled=scaled
            ),  # fp16's, where the norm is of the unscaled
            None,
        ),
        student,
        SupervisedObjective(lambda images: images / 255, 0.1),
        device=torch.device(device),
        world=World(0, 1, 0),
        amp="off",
        clip_norm=norm / 4,
        seed=0,
    )
    step(Batch(IMAGES, labels, [], 0, 6))
    for parameter, old, gradient in zip(student.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(old - parameter.detach(), gradient / 4, rtol=1e-4, atol=1e-7)


def test_processes_exchange_gradients_with_the_last_part_alone() -> None:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        student = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
        network = nn.parallel.DistributedDataParallel(student)
        exchanged: list[bool] = []

        def objective(network: Any, images: torch.Tensor, labels: torch.Tensor, _: None) -> Any:
            exchanged.append(network.require_backward_grad_sync)
            return nn.functional.cross_entropy(network(images / 255), labels), {}

        step = Step(
            State(
                student,
                torch.optim.SGD(student.parameters(), lr=0.1, fused=True),
                torch.amp.GradScaler("cpu", enabled=False),
                None,
            ),
            network,
            objective,
            device=torch.device("cpu"),
            world=World(0, 1, 0),
            amp="off",
            clip_norm=None,
            accumulate=3,
            seed=0,
        )
        step(Batch(IMAGES, torch.tensor([0, 1, 2, 3, 0, 1]), [], 0, 6))
        assert exchanged == [False, False, True]
    finally:
        distributed.destroy_process_group()


def test_fp16_begins_at_the_scale_of_its_recipe(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(
        torch.amp, "GradScaler", lambda *a, **more: given.append(more) or scaler(*a, **more)
    )
    run.prepare(job("run", fp16_scale=7.0), device=torch.device("cpu"), world_size=1)
    assert given == [{"init_scale": 7.0, "enabled": False}]


def test_fp16_that_overflows_at_every_scale_ends_the_run() -> None:
    student = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, fused=True)
    step = Step(
        State(student, optimizer, torch.amp.GradScaler("cpu"), None),
        student,
        lambda network, images, *_: (
            network(images / 255).mean() + (0 * network(images / 255).sum()).sqrt(),
            {},
        ),
        device=torch.device("cpu"),
        world=World(0, 1, 0),
        amp="off",
        clip_norm=None,
        seed=0,
    )
    before = student[1].weight.detach().clone()
    taken = 0
    with pytest.raises(ParameterError, match="in fp16 gradients overflow at every scale"):
        for _ in range(40):
            step(Batch(IMAGES, torch.zeros(6, dtype=torch.int64), [], 0, 6))
            taken += 1
    assert taken == 27, "65536 halved until it is below 2**-10"
    assert torch.equal(student[1].weight, before)


def test_fp16s_scale_goes_on_where_it_stood() -> None:
    scales = []
    kept: dict[str, Any] = {}
    for resumed in (False, True):
        student = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1, fused=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        state = State(student, optimizer, scaler, None)
        if resumed:
            state.restore(kept)
        scaler.scale(student(torch.full((1, 2), math.inf)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        kept = state.parts()
    assert scales == [512.0, 256.0]


def test_parts_that_are_not_equal_and_bn_over_cpus_are_refused(job: Job) -> None:
    with pytest.raises(ValueError, match="batch_size 8 does not divide into accumulate 3 equal"):
        recipe(accumulate=3)
    with pytest.raises(ParameterError, match=r"sync_bn is true, but torch shares .* GPUs only"):
        run.prepare(job("run", sync_bn=True), device=torch.device("cpu"), world_size=2)
    student = create_model("nano", 2)
    names = list(student.state_dict())
    synced = synchronise_batch_norm(student, torch.device("cuda"))
    assert list(synced.state_dict()) == names
    assert any(isinstance(module, nn.SyncBatchNorm) for module in synced.modules())


@pytest.mark.slow
def test_compiled_student_learns_the_same(job: Job) -> None:
    plain = train_run(job("plain", steps=3))
    compiled = train_run(job("compiled", steps=3, compile=True))
    # 1e-5 apart in the first step; BN over eight values a channel makes ten times that a step.
    assert compiled.history[-1]["loss"] == pytest.approx(plain.history[-1]["loss"], rel=1e-3)
