"""One training run from its specification to ``student.safetensors``, resumed where it stopped."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from hgnetv2_pipeline.data.lists.multi_label import label_matrix
from hgnetv2_pipeline.data.quarantine import Ledger
from hgnetv2_pipeline.devices import choose_device
from hgnetv2_pipeline.durable import read_json, sha256_file, write_json, write_text
from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.evaluation import metrics
from hgnetv2_pipeline.evaluation.evaluate import predict_logits
from hgnetv2_pipeline.input.batches import Batch
from hgnetv2_pipeline.input.loader import eval_batches
from hgnetv2_pipeline.input.workers import watch_workers
from hgnetv2_pipeline.printable import csv_frame
from hgnetv2_pipeline.processes.group import World, join_group
from hgnetv2_pipeline.processor import available_cpus, keep_memory, restricted_cpus
from hgnetv2_pipeline.progress import SHOWN
from hgnetv2_pipeline.stopping import StopRequest, stop_on_signal
from hgnetv2_pipeline.training.autotune import settle_mode
from hgnetv2_pipeline.training.best import BEST, keep_weights
from hgnetv2_pipeline.training.checkpoint import load_checkpoint, lock_checkpoints, save_checkpoint
from hgnetv2_pipeline.training.config import RunSpec
from hgnetv2_pipeline.training.loop import Callbacks, Timing, fit
from hgnetv2_pipeline.training.memory import explain_shortage
from hgnetv2_pipeline.training.optim import group_table
from hgnetv2_pipeline.training.prepare import (
    PreparedRun,
    identity,
    make_batches,
    make_step,
    prepare,
)
from hgnetv2_pipeline.training.profile import NOTHING, profile_steps
from hgnetv2_pipeline.training.state import AnyScore, MultiLabelScore, Row, Score
from hgnetv2_pipeline.weights.metadata import padding_entry

if TYPE_CHECKING:
    import pandas as pd

    from hgnetv2_pipeline.training.state import State

_log = logging.getLogger(__name__)

STUDENT, HISTORY, RESULT = "student.safetensors", "history.csv", "result.json"
TIMING, QUARANTINE = "timing.json", "quarantine.csv"
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrainResult:
    """``student``: the weight file; ``metrics``: result.json; ``history``: rows of history.csv."""

    student: Path
    metrics: dict[str, Any]
    history: list[Row]


def train_run(spec: RunSpec, report: Report | None = None) -> TrainResult:
    """Train what ``spec`` describes; go on from ``out/checkpoints`` if a run stopped there.

    Writes into ``spec.out``: ``student.safetensors`` (the weights, raw or averaged, that did best
    on val), ``history.csv``, ``result.json``, ``quarantine.csv``; none of them holds a clock time,
    and the same specification gives the same bytes. ``timing.json`` holds the clock times.
    ``report`` gets every row of the history as it is made.

    Raises:
        Interrupted: a stop was requested; the state is saved and the same call resumes it.
        ParameterError, DataError, WeightsError: see the message.
        DiskFullError: a checkpoint or result did not fit.
    """
    with (
        lock_checkpoints(spec.out / "checkpoints")
        if _first_process()
        else contextlib.nullcontext(),
        stop_on_signal() as stop,
    ):
        device = choose_device(spec.device, _local_rank())
        with (
            explain_shortage(spec),
            torch_settings(device, spec.config.threads),
            join_group(device) as world,
            watch_workers(),
        ):
            return _train(settle_mode(spec, device, world), device, world, stop, report)


def _train(
    spec: RunSpec, device: torch.device, world: World, stop: StopRequest, report: Report | None
) -> TrainResult:
    config, checkpoints = spec.config, spec.out / "checkpoints"
    run = prepare(spec, device=device, world_size=world.size)
    state = run.state
    _log.info("parameter groups\n%s", group_table(state.optimizer.param_groups))
    who = identity(spec, sources=run.sources, world_size=world.size)
    ledger = Ledger(len(run.train), config.max_bad)
    changed: list[str] = []
    forced = changed.extend if spec.resume == "force" else None
    saved = load_checkpoint(checkpoints, identity=who, differing=forced)
    images_a_step = config.batch_size * world.size
    if saved is not None:
        before = saved["progress"].get("images_a_step", images_a_step)
        if before != images_a_step:
            raise ParameterError(
                f"the steps so far were of {before} images, those to come are of {images_a_step}: "
                f"the schedule counts steps, so keep batch_size x processes at {before}"
            )
        state.restore(saved)
        _add(ledger, saved["ledger"])
        _log.log(SHOWN, "resumed after step %d of %d", state.step, run.schedule.total_steps)
    if changed:
        state.note_forced(changed)
        _log.warning(
            "resume=force: from step %d on under another configuration (%s)",
            state.step, "; ".join(changed),
        )  # fmt: skip
    if state.step > run.schedule.total_steps:
        raise ParameterError(
            f"the checkpoint is at step {state.step}, but the run now has "
            f"{run.schedule.total_steps}; raise training.steps or training.epochs"
        )
    began_at = state.step
    if world.any(world.sum([state.step])[0] != world.size * state.step):
        raise DataError(
            f"process {world.rank} found the checkpoint of step {state.step}, others another one: "
            f"{checkpoints} must be one folder that all machines share"
        )

    step = make_step(run, spec, device, world)
    left = run.schedule.total_steps - state.step
    batches = make_batches(run, spec, world, ledger, steps=left, workers=config.workers)

    kept = -1

    def keep() -> None:
        """Before a checkpoint says that they were kept: the newest weights, if among the best."""
        nonlocal kept
        if config.keep_best and state.newest and state.evaluated == state.step != kept:
            kept = state.step
            keep_weights(
                spec.out / BEST,
                state.evaluations,
                config.keep_best,
                state.network(state.evaluations[-1][2]).state_dict(),
                _metadata(spec, run, state.newest),
            )

    def save() -> None:
        _share(ledger, world)
        if world.first:
            keep()
            parts = state.parts() | {"ledger": _ledger_rows(ledger)}
            parts["progress"]["images_a_step"] = images_a_step
            save_checkpoint(
                checkpoints, state.step, parts, identity=who, keep=config.keep_checkpoints
            )

    def tell(row: Row) -> None:
        if world.first:
            keep()
            _write_history(spec.out / HISTORY, state)
            _log.info("%s", "  ".join(f"{k} {v:.4g}" for k, v in row.items() if v is not None))
            if report is not None:
                report(dict(row))

    timing, computed = Timing(), time.process_time()
    # Of many processes the first is looked at; the others wait for it.
    profile = config.profile if world.first else NOTHING
    try:
        with profile_steps(batches, profile, spec.out, device) as shown:
            fit(
                state,
                shown,
                step=step,
                schedule=run.schedule,
                early=config.early_stopping,
                callbacks=Callbacks(
                    evaluate=lambda network: score_on_val(network, spec, run, device, world, stop),
                    save=save,
                    save_seconds=60 * config.checkpoint_every_minutes,
                    report=tell,
                ),
                stop=stop,
                timing=timing,
            )
    finally:
        if world.first:
            computed = time.process_time() - computed
            _write_timing(spec.out / TIMING, timing, began_at, device, world.size, computed)
    _share(ledger, world)
    ledger.check()
    return _finish(spec, run, ledger, world)


def score_on_val(
    network: nn.Module,
    spec: RunSpec,
    run: PreparedRun,
    device: torch.device,
    world: World,
    stop: StopRequest,
) -> AnyScore | None:
    """Right answers on val (of several labels: mAP), each image once over all processes; None if
    asked to stop.

    An unreadable val image is a ``DataError``: weights are not chosen on another set. One that gets
    NaN or infinity, as in fp16 from weights of a run's beginning, is answered wrongly.
    """
    # BN statistics are each process's own until its next step; what is scored is what is saved.
    world.from_first(network.buffers())
    share = run.val.iloc[world.rank :: world.size]
    ledger = Ledger(len(share), 0.0)
    batches: Iterator[Batch] = iter(())
    if len(share):  # more processes than images leave some without any
        batches = eval_batches(
            share,
            spec.val_root,
            preprocess=run.preprocess,
            batch_size=spec.config.batch_size,
            workers=spec.config.workers,
            ledger=ledger,
        )
    cut = False
    # The first process has the most images; all must come to the same end, and to the sum below.
    rounds = -(-len(run.val.iloc[:: world.size]) // spec.config.batch_size)

    def until_stopped() -> Iterator[Batch]:
        nonlocal cut
        for _ in range(rounds):
            if world.any(bool(stop)):
                cut = True
                return
            batch = next(batches, None)
            if batch is not None:
                yield batch

    keys, logits = predict_logits(
        network,
        until_stopped(),
        preprocess=run.preprocess,
        device=str(device),
        channels_last=spec.config.channels_last,
        amp=spec.config.amp,
    )
    if cut:
        return None
    ledger.check()
    if spec.config.loss.multi_label:
        return _multi_label_score(logits, run.val, world)
    ks = [k for k in (1, 5) if k <= spec.num_classes]
    counts, lost, total = dict.fromkeys(ks, 0), 0, 0.0
    if keys:
        labels = share.set_index("key")["label"].loc[keys].to_numpy(dtype="int64")
        sound = _sound(logits)
        lost = int((~sound).sum())
        if sound.any():
            counts = metrics.topk_counts(logits[sound], labels[sound], ks)
            total = float(metrics.cross_entropies(logits[sound], labels[sound]).sum())
    n, lost_of_all, loss, *right = world.sum([len(keys), lost, total, *counts.values()])
    return Score(
        int(n), int(right[0]), int(right[1]) if len(ks) > 1 else None,
        None if lost_of_all else loss / n,
    )  # fmt: skip


def _multi_label_score(logits: Any, val: pd.DataFrame, world: World) -> MultiLabelScore:
    """From this process's logits of every ``world.size``-th image: mAP needs those of all."""
    labels = label_matrix(val)
    every = np.empty(labels.shape, np.float32)
    for rank, part in enumerate(world.gather(logits)):
        if len(part):
            every[rank :: world.size] = part
    sound = _sound(every)
    every[~sound] = every[sound].min(initial=0) - 1  # ranked last of all
    loss = float(metrics.binary_cross_entropies(every, labels).mean()) if sound.all() else None
    thresholds = metrics.best_thresholds(every, labels).tolist()
    names = [str(number) for number in range(labels.shape[1])]
    found = metrics.summarise_multi_label(every, labels, names, thresholds)
    return MultiLabelScore(
        n=len(labels), map=found["map"], f1_micro=found["f1_micro"], f1_macro=found["f1_macro"],
        thresholds=thresholds, loss=loss,
    )  # fmt: skip


def _sound(logits: Any) -> Any:
    """bool [N]: the images whose logits [N, C] are all finite; says how many are not."""
    sound = np.isfinite(logits).all(axis=1)
    if not sound.all():
        _log.warning(
            "%d of %d val images got NaN or inf, which counts as a wrong answer",
            np.count_nonzero(~sound), len(sound),
        )  # fmt: skip
    return sound


def _finish(spec: RunSpec, run: PreparedRun, ledger: Ledger, world: World) -> TrainResult:
    """Write the results from the finished state; the same state gives the same bytes."""
    from hgnetv2_pipeline.weights.load import save_weights

    state, best = run.state, run.state.best
    assert best is not None, "the last step is always evaluated"  # noqa: S101
    student = spec.out / STUDENT
    result = {
        "variant": spec.variant,
        "stage": spec.stage,
        "seed": spec.seed,
        "steps": state.step,
        "stopped_early": state.step < run.schedule.total_steps,
        "images_seen": state.step * spec.config.batch_size * world.size,
        "best_step": best.step,
        "weights": best.weights,
        "val": best.score.summary(),
        "steps_not_applied": state.not_applied,
        "forced_resumes": state.forced,
        "parameters": sum(p.numel() for p in state.student.parameters()),
        "sources": run.sources,
        "inputs": spec.inputs,
        **({} if run.matched is None else {"head": run.matched.summary()}),
        **ledger.summary(),
    }
    if world.first:
        save_weights(student, best.tensors, _metadata(spec, run, best.score))
        _write_history(spec.out / HISTORY, state)
        ledger.write(spec.out / QUARANTINE)
        result["student_sha256"] = sha256_file(student)
        write_json(spec.out / RESULT, result)
    return TrainResult(student, result, state.history)


def _metadata(spec: RunSpec, run: PreparedRun, score: AnyScore | None) -> dict[str, str]:
    """What a weight file says of itself; ``score`` is that of its weights on val."""
    metadata = {
        "format": "hgnetv2_pipeline/1",
        "variant": spec.variant,
        "stage": spec.stage,
        "classes": json.dumps(spec.classes, ensure_ascii=False),
        "num_classes": str(spec.num_classes),
        "preprocess": json.dumps(run.preprocess.to_dict(), sort_keys=True),
        "inputs": json.dumps(spec.inputs | run.sources, sort_keys=True),
    } | padding_entry(run.state.student)
    if isinstance(score, MultiLabelScore):
        metadata |= {"task": "multi_label", "thresholds": json.dumps(score.thresholds)}
    return metadata


@contextlib.contextmanager
def torch_settings(device: torch.device, threads: int | None) -> Iterator[None]:
    """Threads as asked, and on a CPU only algorithms that repeat; both put back afterwards.

    Memory that a CPU's steps take stays with the process.
    """
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    if (count := _threads(threads)) is not None:
        torch.set_num_threads(count)
    if device.type == "cpu":
        keep_memory()
        torch.use_deterministic_algorithms(True)
        # Debugging aid that comes with it: writes over every fresh tensor.
        torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill


def _write_history(path: Path, state: State) -> None:
    import pandas as pd

    rows = pd.DataFrame(state.history, columns=list(state.columns))
    write_text(path, csv_frame(rows).to_csv(index=False))


def _write_timing(
    path: Path, timing: Timing, began_at: int, device: torch.device, processes: int, cpu: float
) -> None:
    """Append this process's times: a resumed run has a segment for each process.

    What the run cost is in ``processor_seconds``: of a CPU those that the threads of all
    ``processes`` computed for (``cpu`` of the first one, loader processes left out), of a GPU those
    that it was held for.
    """
    earlier: list[Any] = []
    if path.is_file() and began_at:
        try:
            earlier = list(read_json(path)["segments"])
        except (ValueError, KeyError, TypeError):
            _log.warning("%s is damaged: the times before step %d are lost", path, began_at)
    on_gpu = device.type == "cuda"
    used = timing.training + timing.waiting + timing.evaluating if on_gpu else cpu
    segment = {
        "from_step": began_at,
        **{key: round(value, 3) for key, value in asdict(timing).items()},
        "images_per_second": round(timing.images / max(timing.training + timing.waiting, 1e-9), 1),
        "processor": "GPU" if on_gpu else "CPU",
        "processor_seconds": round(used * processes, 1),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.machine(),
        "torch": torch.__version__,
    }
    write_json(path, {"segments": [*earlier, segment]})


def _share(ledger: Ledger, world: World) -> None:
    """Every process knows of every image that any of them left out."""
    for rows in world.gather(_ledger_rows(ledger)):
        _add(ledger, rows)


def _add(ledger: Ledger, rows: list[list[str]]) -> None:
    for key, reason in rows:
        ledger.quarantine(key, reason)


def _ledger_rows(ledger: Ledger) -> list[list[str]]:
    """Key and reason of every image left out, so that a resumed run still names all of them."""
    return [[str(key), str(reason)] for key, reason in ledger.frame()[["key", "reason"]].to_numpy()]


def _threads(asked: int | None) -> int | None:
    """Threads of this process; unless the recipe says, the processes of a machine share it.

    None: torch's choice, which is right on a machine that is all ours.
    """
    if asked is not None:
        return asked
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if beside > 1:
        return max(1, available_cpus() // beside)
    # Who started this process side by side with others has given it its part.
    return None if "OMP_NUM_THREADS" in os.environ else restricted_cpus()


def _first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))
