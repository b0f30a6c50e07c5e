"""Micro-batching: requests of a model wait in a bounded queue for the one thread of its engine."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from hgnetv2_pipeline.deployment.engines.base import Engine
from hgnetv2_pipeline.serving.limits import Overloaded


class Outputs(NamedTuple):
    """Logits, float32 [N, classes], and embeddings, float32 [N, width], if they were asked for."""

    logits: np.ndarray
    embeddings: np.ndarray | None


@dataclass(frozen=True)
class BatchSpec:
    """How requests become batches: ``size`` images at most, the first waiting ``delay`` seconds at
    most for others. ``waiting``: images in the queue or at work from which on requests are refused.
    """

    size: int = 1
    delay: float = 0.002
    waiting: int = 10


@dataclass
class Spent:
    """How often something was done, and its nanoseconds in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """Count one more."""
        self.count += 1
        self.ns += ns


@dataclass
class BatchSpent:
    """What batches of one size took: put together, computed, taken apart."""

    compute_input: Spent = field(default_factory=Spent)
    compute_infer: Spent = field(default_factory=Spent)
    compute_output: Spent = field(default_factory=Spent)


@dataclass
class Statistics:
    """What one version of a model has done, as Open Inference Protocol counts it.

    ``success`` and ``fail`` count requests, ``queue`` what they waited; ``batches`` are by size.
    """

    success: Spent = field(default_factory=Spent)
    fail: Spent = field(default_factory=Spent)
    queue: Spent = field(default_factory=Spent)
    batches: dict[int, BatchSpent] = field(default_factory=dict)
    last_ms: int = 0

    @property
    def images(self) -> int:
        """Images answered."""
        return sum(size * spent.compute_infer.count for size, spent in self.batches.items())

    @property
    def executions(self) -> int:
        """Calls of the engine."""
        return sum(spent.compute_infer.count for spent in self.batches.values())


@dataclass
class _Job:
    images: np.ndarray
    embeddings: bool
    future: asyncio.Future[Outputs]
    came: int  # nanoseconds


class Batcher:
    """One engine, one thread. All but that thread is the event loop's, so that nothing is locked.

    With ``size`` 1 a request is one call of the engine, its images as they came: its answer is bit
    for bit the engine's own.
    """

    def __init__(self, engine: Engine, spec: BatchSpec) -> None:
        self.engine, self.spec, self.statistics = engine, spec, Statistics()
        self.depth = 0
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._next: _Job | None = None  # taken from the queue, too large for the batch before
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def full(self) -> bool:
        """Whether nothing more is taken at the moment."""
        return self.depth >= self.spec.waiting

    def require_room(self) -> None:
        """Raise Overloaded where the queue is full."""
        if self.full:
            raise Overloaded(f"{self.depth} images are waiting")

    async def answer(self, images: np.ndarray, *, embeddings: bool = False) -> Outputs:
        """The engine's answer to float32 [N, 3, H, W]; Overloaded where the queue is full."""
        self.require_room()
        job = _Job(images, embeddings, self._loop.create_future(), time.monotonic_ns())
        self.depth += len(images)
        self._jobs.put(job)
        try:
            found = await job.future
        except Exception:
            self.statistics.fail.add(time.monotonic_ns() - job.came)
            raise
        self.statistics.success.add(time.monotonic_ns() - job.came)
        return found

    async def close(self) -> None:
        """Answer what is waiting, end the thread and give the engine's memory back."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        while batch := self._gather():
            began = time.monotonic_ns()
            wanted = [job for job in batch if not job.future.cancelled()]
            result: list[Outputs] | Exception
            try:
                result, times = self._compute(wanted)
            except Exception as error:  # whatever an engine raises is the answer to its batch
                result, times = error, None
            self._loop.call_soon_threadsafe(self._settle, batch, wanted, result, times, began)
        self.engine.close()

    def _gather(self) -> list[_Job]:
        """The next batch; none where the batcher is to end."""
        first = self._next or self._jobs.get()
        self._next = None
        if first is None:
            return []
        batch, count, until = [first], len(first.images), time.monotonic() + self.spec.delay
        while count < self.spec.size:
            try:
                job = self._jobs.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)  # once more, for the next call
                break
            if count + len(job.images) > self.spec.size:
                self._next = job
                break
            batch.append(job)
            count += len(job.images)
        return batch

    def _compute(self, jobs: list[_Job]) -> tuple[list[Outputs], tuple[int, int, int, int] | None]:
        """Each job's answer, and the times at which the batch was begun, made, computed, cut."""
        if not jobs:
            return [], None
        begun = time.monotonic_ns()
        images = jobs[0].images if len(jobs) == 1 else np.concatenate([j.images for j in jobs])
        made = time.monotonic_ns()
        embeddings = None
        if any(job.embeddings for job in jobs):
            logits, embeddings = self.engine.logits_and_embeddings(images)
        else:
            logits = self.engine.logits(images)
        computed = time.monotonic_ns()
        answers, start = [], 0
        for job in jobs:
            rows = slice(start, start := start + len(job.images))
            width = embeddings[rows] if embeddings is not None and job.embeddings else None
            answers.append(Outputs(logits[rows], width))
        return answers, (begun, made, computed, time.monotonic_ns())

    def _settle(
        self,
        batch: list[_Job],
        wanted: list[_Job],
        result: list[Outputs] | Exception,
        times: tuple[int, int, int, int] | None,
        began: int,
    ) -> None:
        """On the event loop: hand the answers out and count them."""
        self.depth -= sum(len(job.images) for job in batch)
        if times is not None:
            spent = self.statistics.batches.setdefault(
                sum(len(job.images) for job in wanted), BatchSpent()
            )
            for part, start, end in zip(
                (spent.compute_input, spent.compute_infer, spent.compute_output),
                times[:-1], times[1:], strict=True,
            ):  # fmt: skip
                part.add(end - start)
            self.statistics.last_ms = time.time_ns() // 1_000_000
        for place, job in enumerate(wanted):
            self.statistics.queue.add(began - job.came)
            if job.future.done():  # its client has gone meanwhile
                continue
            if isinstance(result, Exception):
                job.future.set_exception(result)
            else:
                job.future.set_result(result[place])
