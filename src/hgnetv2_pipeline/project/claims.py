"""What one command makes is its own from before its first node until its end.

The nodes that obviously have work to do are claimed, with all that follows from them, before the
first one runs. What looks finished is claimed, again with all that follows, when its node finds
that it is not valid. A command that meets another's claim is refused, whole, and has changed
nothing by then: up to there all its nodes found their results as they are to be.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hgnetv2_pipeline import ownership
from hgnetv2_pipeline.project.identity import Identity, result_name


@dataclass(frozen=True)
class _Made:
    """A result of a node: a folder of ``FOLDERS``, a name in it, and what shows it finished."""

    folder: str
    name: str = ""
    sign: str = "manifest.json"


# The report reads all there is and takes seconds: it waits its turn instead of claiming.
MADE_BY: Mapping[str, tuple[_Made, ...]] = {
    "ingestion.provide_raw": (_Made("raw", sign="images"),),
    "ingestion.make_lists": (_Made("lists"),),
    "ingestion.report_lists": (
        _Made("dataset_report"),
        _Made("quarantine", "ingestion", "ingestion.manifest.json"),
    ),
    "import_weights.provide_weights": (),
    "import_weights.import_weights": (_Made("import_weights", sign="."),),
    "train_teacher.train_teacher": (_Made("train_teacher", sign="teacher.manifest.json"),),
    "mining.score_pool": (
        _Made("reference"),
        _Made("scores"),
        _Made("guarded", sign=""),
        _Made("quarantine", "mining", "mining.manifest.json"),
    ),
    "mining.deduplicate": (_Made("mining", "dedup", "dedup.manifest.json"),),
    "mining.select": (_Made("mining", "mined", "mined.manifest.json"),),
    "mining.score_probes": (_Made("probes"),),
    "mining.estimate_purity": (_Made("purity"),),
    "label_errors.find": (_Made("label_errors"),),
    "mining.map_pool": (_Made("pool_map"),),
    "label_next.choose": (_Made("label_next"),),
    "mining.audit": (_Made("mining_report"),),
    "ssld_stage1.store_teacher_logits": (_Made("teacher_logits", sign="."),),
    "ssld_stage1.train": (_Made("ssld_stage1"),),
    "ssld_stage2.train": (_Made("ssld_stage2"),),
    "train.train": (_Made("train"),),
    "finetune.train": (_Made("finetune"),),
    "comparison.train_arms": (_Made("comparison", sign="."),),
    "comparison.tabulate": (_Made("comparison_report"),),
    "best.choose": (_Made("best"),),
    "evaluation.evaluate": (_Made("evaluation", "*", "*.manifest.json"),),
    "evaluation.analyse_errors": (_Made("error_analysis", "*", "*/manifest.json"),),
    "export.export": (_Made("export", sign="export.manifest.json"),),
    "latency.measure_latency": (_Made("latency", sign="latency.json"),),
    "prediction.predict": (_Made("prediction"),),
    "reporting.report": (),
    "reporting.draw_plots": (),
    # The trainings and exports of its variants are locked one by one, as they are made.
    "sweep.sweep": (_Made("sweep", sign="sweep.manifest.json"),),
}


class Claims:
    """The claims of the command that runs in this process; none outside a command."""

    def __init__(self) -> None:
        self._held: list[ownership.Claim] = []
        self._places: dict[str, list[ownership.Place]] = {}
        self._after: dict[str, frozenset[str]] = {}
        self._claimed: set[str] = set()
        self._now = threading.local()

    def begin(
        self,
        after: Mapping[str, frozenset[str]],
        *,
        identity: Identity,
        params: Mapping[str, Any],
    ) -> None:
        """Claim what the nodes of a command have to make.

        ``after``: of each node, by its full name, the nodes that follow from it.

        Raises:
            HeldError: another living command makes something that one of these nodes makes.
        """
        self.end()
        self._after = dict(after)
        self._places = {node: _places(node, identity, params) for node in after}
        ownership.refuse_held([place for places in self._places.values() for place in places])
        redo = {*params["redo"]}
        self._claim(
            node
            for node in after
            if redo & {node.partition(".")[0], "all"} or not _finished(node, identity, params)
        )

    def at(self, node: str) -> None:
        """Say which node this thread runs now."""
        self._now.node = node

    def before_making(self) -> None:
        """A result of the node that this thread runs is not valid: it is about to be made."""
        node = getattr(self._now, "node", None)
        if node in self._after:
            self._claim([node])

    def end(self) -> None:
        """Give back all claims."""
        ownership.release_all(self._held)
        self._held, self._places, self._after = [], {}, {}
        self._claimed = set()
        self._now = threading.local()

    def _claim(self, nodes: Iterable[str]) -> None:
        new = {each for node in nodes for each in (node, *self._after[node])} - self._claimed
        places = [place for node in sorted(new) for place in self._places[node]]
        self._held += ownership.take_all(places)
        self._claimed |= new


def _results(node: str, params: Mapping[str, Any]) -> Collection[_Made]:
    """The results of a node, evaluation's under the name that its parameters give them."""
    if not node.startswith("evaluation."):
        return MADE_BY[node]
    own = params["evaluation"]
    name = result_name(
        params["split"], own["engine"], own["precision"],
        resize_short=own["resize_short"], fast=own["fast"],
    )  # fmt: skip
    return [_Made(made.folder, name, made.sign.replace("*", name)) for made in MADE_BY[node]]


def _places(node: str, identity: Identity, params: Mapping[str, Any]) -> list[tuple[Path, str]]:
    return [(identity.folder(made.folder), made.name) for made in _results(node, params)]


def _finished(node: str, identity: Identity, params: Mapping[str, Any]) -> bool:
    """Whether what a node makes is there, to all appearance."""
    return all(
        not made.sign or (identity.folder(made.folder) / made.sign).exists()
        for made in _results(node, params)
    )


claims = Claims()
