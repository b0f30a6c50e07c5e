"""Which files a report is made from."""

from __future__ import annotations

from pathlib import Path

from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.report_files import report_inputs


def test_every_finished_training_of_the_run_and_its_comparison_has_its_curves(
    tmp_path: Path,
) -> None:
    identity = Identity(
        project=tmp_path, environment="sample", dataset="sample", variant="b0", run="seed=0",
        seed=0, teacher="mixed", model="best/b0/seed=0", download=False,
    )  # fmt: skip
    finished = [
        "train_teacher/mixed/member=0",
        "ssld_stage1/b0/seed=0",
        "comparison/b0/seed=0/equal_steps,seed=1",
    ]
    for run in (*finished, "ssld_stage1/b0/other", "comparison/b0/seed=0/unmined,seed=0"):
        folder = identity.folder("models") / run
        folder.mkdir(parents=True)
        for name in ("history.csv", "views.png"):
            (folder / name).touch()
        if not run.endswith("unmined,seed=0"):  # which still trains
            (folder / "result.json").touch()
    inputs = report_inputs(identity)
    assert [*inputs.histories] == [*inputs.results] == [*inputs.views] == finished
    assert all(inputs.histories[run].parent == inputs.results[run].parent for run in finished)
