"""Which nodes a command line means: unknown names are refused, and what is not needed left out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.errors import ParameterError, unknown_name
from hgnetv2_pipeline.project.identity import BEST, FOLDERS

if TYPE_CHECKING:
    from kedro.pipeline import Pipeline

    from hgnetv2_pipeline.project.config_loader import ProjectConfigLoader

# The pipelines whose results are below a model's name take a trained model; naming one means that
# nothing upstream of it is wanted.
TAKES_MODEL = frozenset(name for name, folder in FOLDERS.items() if "{model}" in folder)
# What such a pipeline waits for where no model is named: of the two stage 2 alone for null.
_BEST, _STAGE2 = "best.run", "ssld_stage2.run"
SUPERVISED = "__supervised__"
"""The chain of labelled images alone: train, choose, evaluate, export, time, report."""
SUPERVISED_SWEEP = "__supervised_sweep__"
"""The sweep of labelled images alone."""
# Parameters that a sweep alone has, and what one network has instead.
_OF_SWEEP = {
    "variants": "variant=...",
    "size": "training.image_size=...",
    "precision": "export.precisions=...",
    "budget_ms": "no limit",
}
RUNNERS = ("SequentialRunner", "ParallelRunner", "ThreadRunner")


# What chooses nodes by itself, beside the names of pipelines: no whole chain is meant then.
_CHOOSES = (
    "tags", "node_names", "from_nodes", "to_nodes", "from_inputs", "to_outputs",
    "namespaces",
)  # fmt: skip


def chain_of(options: Mapping[str, Any], load: Any) -> list[str]:
    """The pipelines that ``kedro run`` with these options means: without a pool, and where nothing
    that mines one was named, the chain without mining and SSLD. ``load`` makes the
    ``ProjectConfigLoader``.
    """
    named = list(options["pipelines"] or [])
    check_sweep(named, options["params"] or {})
    model = (options["params"] or {}).get("model", BEST)
    if any(options[key] for key in _CHOOSES) or (named and model != BEST):
        return named
    if not set(named) <= TAKES_MODEL | {"best", "reporting"} and named != ["sweep"]:
        return named
    data = load()["parameters"]["data"]
    if data["pool"] or data["layout"] == "sample":
        return named
    return [SUPERVISED_SWEEP if named == ["sweep"] else SUPERVISED]


def check_sweep(named: Collection[str], params: Mapping[str, Any]) -> None:
    """Refuse parameters of a sweep without one, and those of one network in a sweep.

    Without a word they would change nothing.
    """
    if "sweep" not in named:
        for name in sorted(_OF_SWEEP.keys() & params.keys()):
            raise ParameterError(
                f"{name} is a parameter of sweep: add --pipeline sweep; of one network it is "
                f"{_OF_SWEEP[name]}"
            )
    for name, instead in (("variant", "variants=b0+b1"), ("model", "the chain's last training")):
        if "sweep" in named and name in params:
            raise ParameterError(f"a sweep takes no {name}; what it compares: {instead}")


def check_names(options: Mapping[str, Any], pipelines: Mapping[str, Pipeline]) -> None:
    """Refuse a name that no pipeline, node, tag, dataset or runner bears.

    ``options`` are those of ``kedro run``. Raises ``ParameterError`` with the nearest name, or
    where the options together choose no node at all.
    """
    wanted = options["pipelines"] or ["__default__"]
    _refuse("pipeline", options["pipelines"] or (), pipelines, "--pipeline ...")
    chosen = sum((pipelines[name] for name in wanted[1:]), pipelines[wanted[0]])
    nodes = {node.name for node in chosen.nodes}
    datasets = {name for name in chosen.datasets() if not name.startswith("params:")}
    for option, key, kind, known in (
        ("--tags", "tags", "tag", {tag for node in chosen.nodes for tag in node.tags}),
        ("--nodes", "node_names", "node", nodes),
        ("--from-nodes", "from_nodes", "node", nodes),
        ("--to-nodes", "to_nodes", "node", nodes),
        ("--from-inputs", "from_inputs", "dataset", {*datasets, *chosen.inputs()}),
        ("--to-outputs", "to_outputs", "dataset", datasets),
        ("--namespaces", "namespaces", "namespace", _namespaces(chosen)),
        ("--load-versions", "load_versions", "dataset", datasets),
    ):
        of = f" in pipeline {'+'.join(wanted)}" if options["pipelines"] else ""
        of += "; kedro registry describe NAME lists the nodes" if kind == "node" else ""
        _refuse(kind, options[key] or (), known, f"{option} ...{of}")
    runner = options["runner"]
    # A runner of one's own is named with its module.
    if runner and "." not in runner:
        _refuse("runner", [runner], RUNNERS, "--runner ...")
    try:
        chosen.filter(
            tags=options["tags"] or None,
            from_nodes=options["from_nodes"] or None,
            to_nodes=options["to_nodes"] or None,
            node_names=options["node_names"] or None,
            from_inputs=options["from_inputs"] or None,
            to_outputs=options["to_outputs"] or None,
            node_namespaces=options["namespaces"] or None,
        )
    except ValueError as error:
        raise ParameterError(
            "these options together choose no node; leave some out: "
            "--tags, --nodes, --from-..., --to-..., --namespaces"
        ) from error


def _refuse(kind: str, given: Iterable[str], known: Collection[str], where: str) -> None:
    names = sorted(name for name in known if not name.startswith("__"))
    for name in given:
        if name not in known:
            raise unknown_name(kind, name, names, where)


def _namespaces(pipeline: Pipeline) -> set[str]:
    return {str(node.namespace) for node in pipeline.nodes if node.namespace}


def needed_tags(
    wanted: Collection[str],
    pipelines: Mapping[str, Pipeline],
    params: Mapping[str, Any],
    load: Any,
) -> list[str]:
    """The tags of what the pipelines ``wanted`` really need; none: all that is upstream of them.

    Where the weights they start from are named, nothing is trained to make others. ``load`` makes
    the ``ProjectConfigLoader``, which is asked only where the answer is in the configuration.
    """
    model = params.get("model", BEST)
    if set(wanted) <= TAKES_MODEL and model != BEST:
        given = {_BEST} if model is None else {_BEST, _STAGE2}
    elif set(wanted) == {"finetune"}:
        given = _not_started_from(load(), pipelines["finetune"])
    else:
        return []
    whole = sum((pipelines[name] for name in wanted), pipelines["ingestion"])
    return sorted(upstream(whole, wanted, given))


def upstream(pipeline: Pipeline, wanted: Collection[str], given: Collection[str] = ()) -> set[str]:
    """The tags ``wanted``, and those of whatever makes their inputs that are not ``given``."""
    makers = {output: node for node in pipeline.nodes for output in node.outputs}
    waiting = [node for node in pipeline.nodes if node.tags & set(wanted)]
    tags: set[str] = set()
    seen = set()
    while waiting:
        node = waiting.pop()
        if node.name in seen:
            continue
        seen.add(node.name)
        tags |= node.tags
        waiting += [makers[name] for name in node.inputs if name in makers and name not in given]
    return tags


def _not_started_from(conf: ProjectConfigLoader, finetune: Pipeline) -> set[str]:
    """Of the results that fine-tuning may start from, those that its ``init`` does not name."""
    identity = conf.identity
    start = identity.folder("models") / Path(conf["parameters"]["finetune"]["init"])
    [trainer] = finetune.only_nodes_with_tags("finetune").nodes
    makers = {name: name.partition(".")[0] for name in trainer.inputs}
    return {
        name
        for name, maker in makers.items()
        if maker in FOLDERS and not start.is_relative_to(identity.folder(maker))
    }
