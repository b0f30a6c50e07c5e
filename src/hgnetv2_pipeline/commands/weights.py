"""The commands of ``hgnetv2`` about weights: what was published, what a file holds, ways out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hgnetv2_pipeline.commands.choices import OneOf
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.printable import echo, json_text, shorten
from hgnetv2_pipeline.weights.styles import STYLE_NAMES

if TYPE_CHECKING:
    from hgnetv2_pipeline.weights.zoo import ZooEntry


def project_folder() -> Path:
    """The project's folder: this one or the nearest above with conf/base."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "conf" / "base" / "globals.yml").is_file():
            return folder
    raise ParameterError(f"{here} is not inside an hgnetv2_pipeline project (no conf/base above)")


def weights_root() -> Path:
    """Where weights/ is looked for: the project, or this folder outside of one."""
    try:
        return project_folder()
    except ParameterError:
        return Path.cwd()


@click.command(short_help="List the published models: cost, accuracy, latency, files.")
@click.option("--max-ms", type=click.FloatRange(min=0),
              help="Only those that take at most so long on a V100.")  # fmt: skip
@click.option("--urls", is_flag=True, help="Add the address each file comes from.")
@click.option("--json", "as_json", is_flag=True, help="All of it as JSON.")
def models(max_ms: float | None, urls: bool, as_json: bool) -> None:
    """The published models: cost, accuracy, V100 latency, and whether their weights are here.

    Accuracies are ImageNet-1k percentages: top-1 and top-5 as PaddleClas publishes them, timm as
    timm measured the same weights; latency is PaddleClas's, V100 with TensorRT 8.5. Weights are in
    weights/ of the project; their SHA-256 is checked against the one recorded beside them.

    \b
    hgnetv2 models
    hgnetv2 models --max-ms 1 --json
    hgnetv2 benchmark scratch:b0 scratch:b1      what they take on this machine
    """
    from hgnetv2_pipeline.weights.zoo import ZOO

    root = weights_root()
    rows = [
        _published(entry, root)
        for entry in ZOO.values()
        if max_ms is None or (entry.latency_v100_ms or math.inf) <= max_ms
    ]
    if as_json:
        echo(json_text(rows, indent=2))
        return
    echo(
        f"{'name':24} {'params':>7} {'GMACs':>6} {'top-1':>6} {'top-5':>6} "
        f"{'timm':>6} {'V100 ms':>7}  weights"
    )
    for row in rows:
        top1, top5, timm, latency = (
            f"{row[name]:.2f}" if row[name] is not None else "-"
            for name in ("top1", "top5", "timm_top1", "latency_v100_ms")
        )
        echo(
            f"{row['name']:24} {row['parameters'] / 1e6:6.2f}M {row['macs'] / 1e9:6.2f} "
            f"{top1:>6} {top5:>6} {timm:>6} {latency:>7}  {row['weights'] or '-'}"
        )
        if urls:
            echo(f"  {row['url']}")
    found = sum(row["weights"] is not None for row in rows)
    echo(f"{found} of {len(rows)} files are in {root / 'weights'}; checked by SHA-256")


def _published(entry: ZooEntry, root: Path) -> dict[str, Any]:
    """What is known of a published model; ``weights``: the state of its file, None without one."""
    from hgnetv2_pipeline.weights.zoo import COSTS, weights_file

    parameters, macs = COSTS[entry.variant]
    here = weights_file(entry, root)
    return {
        "name": entry.name,
        "variant": entry.variant,
        "parameters": parameters,
        "macs": macs,
        "top1": entry.top1,
        "top5": entry.top5,
        "timm_top1": entry.timm_top1,
        "latency_v100_ms": entry.latency_v100_ms,
        "file": entry.filename,
        "url": entry.url,
        "bytes": here.stat().st_size if here else None,
        "weights": _hash_state(entry, here) if here else None,
    }


def _hash_state(entry: ZooEntry, path: Path) -> str:
    from hgnetv2_pipeline.durable import sha256_file

    record = path.with_name(f"{path.name}.sha256")
    recorded = record.read_text(encoding="utf-8").split() if record.is_file() else []
    expected = entry.sha256 or (recorded[0] if recorded else None)
    if expected is None:
        return "no hash"
    return "ok" if sha256_file(path) == expected else "DIFFERS"


@click.command(short_help="Show what a weight file holds, running nothing in it.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--tensors", is_flag=True, help="List every tensor: name, shape, type.")
@click.option("--json", "as_json", is_flag=True, help="All of it as JSON.")
@click.option("--key", help="Look below this key of a checkpoint, such as ema.module.")
@click.option("--prefix", help="Look at the tensors whose names begin so, such as model.")
def inspect(file: Path, tensors: bool, as_json: bool, key: str | None, prefix: str | None) -> None:
    """What a weight file holds, without running anything in it.

    FILE is a PyTorch checkpoint (.pth, .pt, .pth.tar, .ckpt, .bin), .safetensors, .pdparams,
    .pdopt, .pdstates, an inference archive (.tar, its folder or a file of it), .onnx or a run's
    folder; its content says which. Ends with 4 and the reason if the file is refused.

    \b
    hgnetv2 inspect weights/PPHGNetV2_B4_ssld_stage1_pretrained.pdparams
    hgnetv2 inspect dfine_l.pth --tensors
    hgnetv2 inspect last.ckpt --key state_dict --prefix model.
    hgnetv2 inspect data/06_models/sample/ssld_stage2/b0/seed=0 --json
    """
    from hgnetv2_pipeline.weights.inspect import inspect_file
    from hgnetv2_pipeline.weights.places import Wanted

    facts = inspect_file(file, Wanted(key=key, prefix=prefix))
    if as_json:
        echo(json_text(facts, indent=2))
        return
    for label, text in _described(facts):
        echo(f"{label:11} {text}")
    if tensors:
        for item in facts["tensors"]:
            note = f"  {item['nonfinite']} not finite" if item["nonfinite"] else ""
            echo(f"  {shorten(item['name']):60} {item['dtype']:9} {item['shape']}{note}")


def _described(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """An inspection as lines of (label, text)."""
    yield "file", facts["path"]
    yield "format", facts["format"]
    if facts["bytes"] is not None:
        yield "size", f"{_size(facts['bytes'])} ({facts['bytes']:,} bytes)"
    yield "sha256", facts["sha256"]
    for key, value in facts["metadata"].items():
        yield "metadata", f"{shorten(key)}: {_shortened(key, value)}"
    if facts["below"]:
        yield "below", shorten(facts["below"])
    if len(facts["places"]) > 1:
        yield (
            "networks",
            "below the keys "
            + ", ".join(shorten(place) or "(none)" for place in facts["places"][:8]),
        )
    rows = facts["tensors"]
    kinds = ", ".join(sorted({row["dtype"] for row in rows})) or "none"
    yield "tensors", f"{len(rows)} ({kinds})"
    bad = [row for row in rows if row["nonfinite"]]
    for row in bad[:5]:
        yield "not finite", f"{shorten(row['name'])}: {row['nonfinite']:,} values"
    if len(bad) > 5:
        yield "not finite", f"and in {len(bad) - 5} tensors more"
    for network in facts["networks"]:
        below = f", below {shorten(network['prefix'])}" if network["prefix"] else ""
        yield (
            "network",
            f"{network['variant'] or 'none of ours'}{below}, {network['style']} names "
            f"({network['names_of']})",
        )
        classes = network["num_classes"]
        yield (
            "",
            f"{network['n_tensors']} tensors, {network['parameters']:,} parameters, "
            + (f"{classes} classes" if classes is not None else "no fc"),
        )
        yield "loads", network["loads"]
    if rows and not facts["networks"] and facts["may_load"]:
        yield "network", "none of ours: no stem of PP-HGNet or PP-HGNetV2 is among the names"
    rest = facts["left_aside"]
    if rest:
        more = f" and {len(rest) - 8} more" if len(rest) > 8 else ""
        yield "also holds", ", ".join(map(shorten, rest[:8])) + more


def _shortened(key: str, value: str) -> str:
    """Metadata on one line; of many class names the first and the last."""
    if key == "classes":
        try:
            classes = json.loads(value)
        except json.JSONDecodeError:
            classes = None
        if isinstance(classes, list) and len(classes) > 6:
            named = ", ".join(map(shorten, classes[:4]))
            return f"{len(classes)}: {named}, ... {shorten(classes[-1])}"
    return shorten(value)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


@click.command("export-weights", short_help="Write weights under another program's names.")
@click.argument("source")
@click.option("--style", type=OneOf(STYLE_NAMES), required=True,
              help="The program whose names they are to have.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True,
              help="The file: .pdparams for paddle, .pth for dfine and rtdetr, else .safetensors "
              "or .pth.")  # fmt: skip
@click.option("--protocol", type=int, default=4, show_default=True,
              help="Pickle protocol of a .pdparams: 2, 3 or 4.")  # fmt: skip
def export_weights(source: str, style: str, out: Path, protocol: int) -> None:
    """Write weights under the names another program uses.

    SOURCE is a weight file, a run's folder, or a published model by name (b4.ssld_stage1) whose
    file is in weights/. Behind a file may be said which of its networks is meant and how its stem
    pads: FILE@key=ema.module@prefix=model.@pool_padding=zero. Detectors take the backbone alone.
    timm, D-FINE, RT-DETR and transformers pad one max-pool of the stem differently; where that
    changes outputs (b0 to b3) the command says so.

    \b
    hgnetv2 export-weights data/06_models/sample/ssld_stage1/b0/seed=0 --style dfine --out b0.pth
    hgnetv2 export-weights b4.ssld_stage2 --style timm --out b4.safetensors
    hgnetv2 export-weights student.safetensors --style paddle --out student.pdparams
    """
    from hgnetv2_pipeline.weights.build import build_from
    from hgnetv2_pipeline.weights.load import export_weights as write
    from hgnetv2_pipeline.weights.places import as_typed

    if source.startswith("timm:"):
        raise ParameterError(f"{source} is timm's own network; only ours are written for others")
    model, info = build_from(as_typed(source), num_classes=None, root=weights_root())
    report = write(model, out, style, protocol=protocol, metadata=_metadata(info))
    echo(f"wrote {report}")
    for remark in report.remarks:
        echo(f"note: {remark}")


def _metadata(info: dict[str, Any]) -> dict[str, str]:
    """What is known of a network, as the metadata of a safetensors file of ours."""
    known = {
        "format": "hgnetv2_pipeline/1",
        "variant": info["variant"],
        "stage": info["stage"],
        "num_classes": str(info["num_classes"]),
        "classes": info["classes"] and json.dumps(info["classes"], ensure_ascii=False),
        "preprocess": info["preprocess"] and json.dumps(info["preprocess"]),
        "inputs": info["sha256"] and json.dumps({Path(info["source"]).name: info["sha256"]}),
    }
    return {key: value for key, value in known.items() if value}
