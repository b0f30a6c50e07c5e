"""Nothing looks outside the machine: not the chain, not Kedro-Viz, not DVC.

Every process the tests start runs behind ``network_guard``, which refuses and records; this file
comes last, builds the Viz site too, and reads the record.
"""

from __future__ import annotations

import importlib.util
import json

import pytest

from project_copies import NETWORK_LOG, ROOT, SampleRun, kedro

GUARD = ROOT / "tests" / "network_guard" / "sitecustomize.py"


@pytest.mark.parametrize(
    ("address", "local"),
    [
        (("127.0.0.1", 80), True),
        (("::1", 80, 0, 0), True),
        ("localhost", True),
        ("/run/socket", True),
        (None, True),
        (("192.0.2.1", 443), False),
        ("example.invalid", False),
    ],
)
def test_the_guard_knows_what_is_local(address: object, local: bool) -> None:
    spec = importlib.util.spec_from_file_location("network_guard", GUARD)
    assert spec is not None and spec.loader is not None
    guard = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(guard)
    assert guard.is_local(address) is local


PREVIEWS = {
    "mining.result": "TablePreview",
    "mining.sheet": "ImagePreview",
    "mining.sheet_removed": "ImagePreview",
    "mining.report": "HTMLPreview",
    "mining.purity": "PlotlyPreview",
    "ssld_stage1.run": "PlotlyPreview",
    "mining.audit": "JSONPreview",
}


@pytest.mark.sample
def test_kedro_viz_builds_a_site_with_layers_stages_and_previews(sample_run: SampleRun) -> None:
    kedro(sample_run.project, "viz", "build", "--include-previews")
    api = sample_run.project / "build" / "api"
    main = json.loads((api / "main").read_text(encoding="utf-8"))
    assert main["layers"] == [
        "raw", "intermediate", "teacher", "feature", "model_input", "models", "model_output",
        "reporting",
    ]  # fmt: skip
    stages = {node["id"] for node in main["nodes"] if node["type"] == "modularPipeline"}
    assert {"ingestion", "train_teacher", "mining", "ssld_stage1", "ssld_stage2"} <= stages
    previews = {
        node["name"]: json.loads((api / "nodes" / node["id"]).read_text(encoding="utf-8"))
        for node in main["nodes"]
        if node["name"] in PREVIEWS
    }
    assert {name: found.get("preview_type") for name, found in previews.items()} == PREVIEWS
    assert all(found.get("preview") for found in previews.values())


# Row X01 of docs/reliability.md.
@pytest.mark.sample
def test_no_process_looked_outside_this_machine(sample_run: SampleRun) -> None:
    assert sample_run.output
    assert not NETWORK_LOG.exists(), NETWORK_LOG.read_text(encoding="utf-8")
