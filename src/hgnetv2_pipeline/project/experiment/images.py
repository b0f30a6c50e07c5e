"""The lists of images of a run, as MLflow's inputs: which, how many, and by which SHA-256."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.lists import Lists, count_rows

_CONTEXTS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class ImageList:
    """A list of images: its index, whose contents have the SHA-256 ``digest``."""

    name: str
    context: str
    index: Path
    digest: str

    def as_input(self, project: Path) -> Any:
        """The list as MLflow's ``DatasetInput``, whose digests are 36 characters at most."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = {"uri": self.index.relative_to(project).as_posix(), "sha256": self.digest}
        profile = {"num_rows": count_rows(self.index)}
        known = Dataset(
            self.name, self.digest[:16], "local", json.dumps(source), profile=json.dumps(profile)
        )
        return DatasetInput(known, [InputTag("mlflow.data.context", self.context)])


def image_lists(identity: Identity) -> Iterator[ImageList]:
    """Those of the dataset, and what was mined of its pool, as far as they are made."""
    lists, mining = Lists(identity.folder("lists")), identity.folder("mining")
    named = [
        (f"{identity.dataset} {name}", _CONTEXTS.get(name, name), lists.folder, "manifest.json",
         f"index_{name}.parquet")
        for name in lists.sets
    ]  # fmt: skip
    named.append(
        (f"{identity.dataset} mined", "mined", mining, "mined.manifest.json", "train_mined.parquet")
    )
    for name, context, folder, manifest, index in named:
        if (folder / manifest).is_file():
            digest = read_json(folder / manifest)["outputs"][index]
            yield ImageList(name, context, folder / index, digest)


def inputs_of(identity: Identity, digests: Collection[str] | None = None) -> list[Any]:
    """The lists, or those of them with one of the ``digests``, as MLflow's inputs."""
    return [
        each.as_input(identity.project)
        for each in image_lists(identity)
        if digests is None or each.digest in digests
    ]
