"""The examples of docs/backbone.md run as they are, and print what the page says they print."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from doc_pages import blocks
from project_copies import ROOT

PAGE = ROOT / "docs" / "backbone.md"
EXAMPLES = dict(
    zip(
        ("features", "timm", "fast", "detection", "segmentation", "freezing"),
        blocks(PAGE, "python"),
        strict=True,
    )
)


def run(name: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The names an example leaves behind; every line it prints is on the page."""
    names: dict[str, Any] = {}
    exec(compile(EXAMPLES[name], f"{PAGE.name}: {name}", "exec"), names)  # noqa: S102 - our own page
    page = [line.removeprefix("# ") for line in PAGE.read_text(encoding="utf-8").splitlines()]
    said = capsys.readouterr().out.splitlines()
    assert said
    for line in said:
        assert line in page
    return names


@pytest.mark.parametrize("name", ["features", "timm", "freezing"])
def test_an_example_prints_what_the_page_says(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = [line for line in EXAMPLES[name].splitlines() if line.startswith("# ")]
    run(name, capsys)
    assert len(printed) > 2


def test_the_fast_loop_leaves_plain_layers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fast", capsys)["loss"].isfinite()


def test_the_detector_takes_a_step_and_finds_boxes(capsys: pytest.CaptureFixture[str]) -> None:
    names = run("detection", capsys)
    losses, detector, trunk = names["losses"], names["detector"], names["trunk"]
    assert set(losses) == {
        "loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg",
    }  # fmt: skip
    assert all(torch.isfinite(loss) for loss in losses.values())
    for name, parameter in detector.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    learning = {name for name, p in trunk.named_parameters() if p.requires_grad}
    assert learning == {
        name
        for name, _ in trunk.named_parameters()
        if name.startswith("stages.") and ".bn." not in name
    }
    assert len(names["found"]) == 2
    assert all(one["boxes"].shape == (len(one["scores"]), 4) for one in names["found"])


def test_the_segmentation_network_learns_a_square(capsys: pytest.CaptureFixture[str]) -> None:
    names = run("segmentation", capsys)
    history, network = names["history"], names["network"]
    assert history[-1] < 0.7 * history[0]
    assert all(parameter.grad is not None for parameter in network.parameters())
