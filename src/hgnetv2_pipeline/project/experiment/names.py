"""What the runs of trainings are called: as in the report."""

from __future__ import annotations

from hgnetv2_pipeline.reporting.comparison import ARMS

STAGES = {
    "ssld_stage1": ARMS["stage1"],
    "ssld_stage2": ARMS["stage2"],
    "train": ARMS["supervised"],
    "finetune": "finetune",
}
"""Names of trainings by their pipeline."""


def training_name(label: str, seed: int) -> str:
    """The name of one training of a kind."""
    return f"{label}, seed {seed}"
