"""A project with nothing in it but an exported model, for the nodes that use one."""

from __future__ import annotations

import pytest

from hgnetv2_pipeline.project.identity import Identity


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """A B0 of three classes at 32 pixels, exported as ``train/b0/seed=0``."""
    import torch

    from hgnetv2_pipeline.data.preprocess import Preprocess
    from hgnetv2_pipeline.deployment.export.bundle import write_bundle
    from hgnetv2_pipeline.models.create import create_model

    who = Identity(
        project=tmp_path_factory.mktemp("project"), environment="mine", dataset="mine",
        variant="b0", run="seed=0", seed=0, teacher="mixed", model="train/b0/seed=0",
        download=False,
    )  # fmt: skip
    torch.manual_seed(0)
    write_bundle(
        create_model("b0", 3).eval(), who.folder("export"), image_size=32,
        class_names=["ant", "bee", "cat"], preprocess=Preprocess(32, 32),
    )  # fmt: skip
    return who
