"""Several models on several engines, measured in one go: what ``hgnetv2 benchmark`` prints."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.deployment.choices import ENDINGS
from hgnetv2_pipeline.deployment.engines.base import Engine, EngineUnavailable
from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.timing.latency import compare_latency, measure_latency
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.ownership import scratch
from hgnetv2_pipeline.printable import Lines, lines, printable
from hgnetv2_pipeline.weights.places import as_typed

_log = logging.getLogger(__name__)
_EXPORTED = (".onnx", ".engine", ".plan", *ENDINGS.values())
OWN = "own"
"""The precision of the file itself; fp32 for weights."""


def run_benchmark(
    models: Sequence[str],
    *,
    engines: Sequence[str] = ("auto",),
    precisions: Sequence[str] = (OWN,),
    batch_sizes: Sequence[int] = (1,),
    threads: int = 1,
    device: str | None = None,
    image_size: int = 224,
    warmup: int = 100,
    runs: int = 2000,
    turns: int = 0,
    root: Path,
) -> dict[str, Any]:
    """Measure every model on every engine in every precision and batch size.

    A model is what ``load_engine`` takes; weights, zoo, timm and scratch names are exported to a
    file of their own for the engines that run ONNX (``auto`` takes PyTorch for them). By the
    protocol, ``measure_latency``, or with ``turns`` above 0 by ``compare_latency`` in so many
    rounds. Returns ``{rows, not_run, comparisons}``: the latency JSONs with the model's name as
    given; what an engine refused and why; and of each batch size the ratios to the first. Raises
    ParameterError when nothing at all can be run, and what loading raises.
    """
    if not (models and engines and precisions and batch_sizes):
        raise ParameterError("a benchmark needs a model, an engine, a precision and a batch size")
    with scratch("benchmark") as folder:
        bench = _Bench(folder, root, threads, device, image_size)
        wanted = list(itertools.product(models, engines, precisions))
        if turns:
            for size in batch_sizes:
                engines_of = {wish: bench.load(*wish, size) for wish in wanted}
                loaded = {wish: engine for wish, engine in engines_of.items() if engine is not None}
                if not loaded:
                    break
                found = compare_latency(
                    _short(loaded), batch_size=size, rounds=turns, runs_per_round=max(3, 20 // size)
                )
                for wish, row in zip(loaded, found["rows"], strict=True):
                    bench.rows.append({**row, "model": wish[0]})
                bench.comparisons.append({"batch_size": size, "ratios": found["ratios"]})
        for wish, size in itertools.product(wanted, batch_sizes) if not turns else ():
            engine = bench.load(*wish, size)
            if engine is None:
                continue
            with engine:
                try:
                    row = measure_latency(engine, batch_size=size, warmup=warmup, runs=runs)
                except EngineUnavailable as error:  # no memory for this batch
                    bench.refuse(*wish, error)
                    continue
            bench.rows.append({**row, "model": wish[0]})
    if not bench.rows:
        raise ParameterError(f"nothing can be run here: {bench.not_run[0]['reason']}")
    return {"rows": bench.rows, "not_run": bench.not_run, "comparisons": bench.comparisons}


def is_fresh(model: str) -> bool:
    """Whether a model's name stands for random weights."""
    return model.startswith("scratch:") or (
        model.startswith("timm:") and not model.endswith(":pretrained")
    )


def has_no_preprocess(model: str) -> bool:
    """Whether nothing says how images become this model's input."""
    return model.startswith(("timm:", "scratch:"))


def unsettle(network: Any) -> Any:
    """Move a fresh network's single-valued parameters off 1 and 0, in place, always the same way.

    LAB starts as scale 1 and bias 0, and runtimes drop what multiplies by one or adds zero:
    measured like that, a stock B0 is a third faster on ONNX Runtime than it is when trained.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in network.parameters():
            if value.numel() == 1:
                value.add_(0.05 + 0.2 * torch.rand((), generator=generator))
    return network


@dataclass
class _Bench:
    """Opens the models, each exported at most once."""

    folder: Path
    root: Path
    threads: int
    device: str | None
    image_size: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    not_run: list[dict[str, str]] = field(default_factory=list)
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    _files: dict[str, Path] = field(default_factory=dict)

    def load(self, model: str, engine: str, precision: str, batch_size: int) -> Engine | None:
        """The engine; None, noted once with its reason, where it cannot run here."""
        refused = {"model": model, "engine": engine, "precision": precision}
        if any(gap.items() >= refused.items() for gap in self.not_run):
            return None
        on_weights = engine.startswith("torch") or engine == "auto"
        try:
            loaded = load_engine(
                as_typed(model) if on_weights else self._onnx(model),
                engine=engine,
                threads=self.threads,
                batch_size=batch_size,
                device=self.device,
                root=self.root,
                preprocess=self._preprocess(model) if on_weights else None,
                precision=None if precision == OWN else precision,
            )
            loaded.require_batch(batch_size)
            return loaded
        except EngineUnavailable as error:
            self.refuse(model, engine, precision, error)
            return None

    def refuse(self, model: str, engine: str, precision: str, error: EngineUnavailable) -> None:
        """Note what cannot be measured, and why; larger batches of it are not tried."""
        _log.warning("%s not measured: %s", model, error)
        self.not_run.append(
            {"model": model, "engine": engine, "precision": precision, "reason": str(error)}
        )

    def _preprocess(self, model: str) -> Preprocess | None:
        """The published one at ``image_size`` for a model that has none of its own."""
        return Preprocess.at_size(self.image_size) if has_no_preprocess(model) else None

    def _onnx(self, model: str) -> str:
        path = Path(model)
        if path.name.lower().endswith(_EXPORTED) or (path / "model.onnx").is_file():
            return model
        if model not in self._files:
            from hgnetv2_pipeline.deployment.export.to_onnx import export_onnx
            from hgnetv2_pipeline.weights.build import build_from

            network, info = build_from(as_typed(model), num_classes=None, root=self.root)
            if is_fresh(model):
                unsettle(network)
            preprocess = self._preprocess(model) or Preprocess.from_dict(info["preprocess"] or {})
            self._files[model] = export_onnx(
                network.eval(), self.folder / f"{len(self._files)}.onnx", preprocess.crop,
                class_names=info["classes"], preprocess=preprocess,
                metadata={"variant": info["variant"] or model},
            )  # fmt: skip
        return str(self._files[model])


def _short(engines: Mapping[tuple[str, str, str], Engine]) -> dict[str, Engine]:
    """The same under labels of the words that not all of them share."""
    telling = [at for at in range(3) if len({wish[at] for wish in engines}) > 1] or [0]
    return {" ".join(wish[at] for at in telling): engine for wish, engine in engines.items()}


_HEAD = (
    "model", "engine", "type", "batch", "mean", "p50", "p90", "p99", "CPU", "GPU p50",
    "without copies", "% peak", "V100*",
)  # fmt: skip
_LEAST_OF_NAME = 8
_WORDS = 3  # of these columns, the others are numbers


def as_table(result: Mapping[str, Any], width: int = 80) -> Lines:
    """A benchmark as text: one line per row, what was not run, and the ratios of those in turns.

    Names of models are shortened where the table would be wider than ``width``.
    """
    rows = result["rows"]
    cells = _without_empty_columns([list(_HEAD), *map(_figures, rows)])
    over = max(map(len, _aligned(cells))) - width
    longest = max(len(line[0]) for line in cells)
    for line in cells if over > 0 else ():
        line[0] = _tail(line[0], max(longest - over, _LEAST_OF_NAME))
    text = _aligned(cells)
    text.append(f"ms per batch, on {', '.join(sorted({row['device'] for row in rows}))}, "
                f"{rows[0]['n_timed']} calls timed")  # fmt: skip
    if _HEAD[-1] in cells[0]:
        text.append("* published: V100, TensorRT 8.5 FP32, batch 1; a reference, not measured here")
    for both in result["comparisons"]:
        text += _ratios(both)
    text += [
        f"not run: {gap['model']} on {gap['engine']} {gap['precision']}: {gap['reason']}"
        for gap in result["not_run"]
    ]
    return lines(*text)


def _figures(row: Mapping[str, Any]) -> list[str]:
    """A row of the table, under ``_HEAD``; what was not measured is empty."""
    from hgnetv2_pipeline.weights.zoo import ZOO

    published = ZOO.get(f"{row['variant']}.ssld_stage2")
    reference = published.latency_v100_ms if published and row["image_size"] == 224 else None
    times = [
        *(row[f"{kind}_ms"] for kind in ("mean", "p50", "p90", "p99", "cpu")),
        row.get("gpu_p50_ms"),
        (row.get("without_copies") or {}).get("gpu_p50_ms"),
    ]
    peak = row["percent_of_peak"]
    return [
        printable(row["model"]), row["engine"], row["precision"], str(row["batch_size"]),
        *("" if value is None else f"{value:.3f}" for value in times),
        "" if peak is None else f"{peak:.0f}",
        f"{reference:.2f}" if reference else "",
    ]  # fmt: skip


def _without_empty_columns(table: list[list[str]]) -> list[list[str]]:
    """``table``, a head and rows, without the columns in which no row has anything."""
    head, *body = table
    kept = [at for at in range(len(head)) if any(line[at] for line in body)]
    return [[line[at] for at in kept] for line in table]


def _aligned(cells: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            word.ljust(width) if at < _WORDS else word.rjust(width)
            for at, (word, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


def _ratios(both: Mapping[str, Any]) -> Iterator[str]:
    """A line for each of those that were timed in turns with the first, by its clocks."""
    (base, _), *others = both["ratios"].items()
    for label, ratio in others:
        shown = ", ".join(f"{clock} {value:.2f}x" for clock, value in ratio.items() if value)
        yield f"batch {both['batch_size']}: {label} against {base}: {shown}"


def _tail(model: str, most: int) -> str:
    return model if len(model) <= most else "..." + model[-most + 3 :]
