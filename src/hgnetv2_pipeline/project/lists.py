"""What ingestion leaves behind, as later nodes read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hgnetv2_pipeline.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ScannedSource:
    """What ingestion found in a source of the pool; its keys begin with ``prefix``."""

    name: str
    prefix: str
    images: int
    sha256: str


@dataclass(frozen=True)
class Lists:
    """The folder ``02_intermediate/<dataset>``: indexes, lists and class names."""

    folder: Path

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the labels."""
        from hgnetv2_pipeline.data.classmap import read_class_map

        return read_class_map(self._existing("class_map.txt"))

    @property
    def multi_label(self) -> bool:
        """Whether an image may belong to several classes."""
        import pyarrow.parquet as pq

        from hgnetv2_pipeline.data.index import LABELS

        return LABELS in pq.read_schema(self.index("train")).names

    def has(self, which: str) -> bool:
        """Whether the dataset has the set ``which``: train, val, test or pool."""
        return (self.folder / f"index_{which}.parquet").is_file()

    @property
    def sets(self) -> list[str]:
        """The sets that the dataset has, in their usual order."""
        return [name for name in ("train", "val", "test", "pool") if self.has(name)]

    @property
    def guarded(self) -> list[str]:
        """The sets that no mined image may come from."""
        return [name for name in ("val", "test", "train") if self.has(name)]

    def index(self, which: str) -> Path:
        """The image index of a set; its paths are relative to the project, or absolute."""
        if not self.has(which) and (self.folder / "index_train.parquet").is_file():
            where = {
                "test": "give data.test or data.split.test",
                "pool": "give data.pool, folders of unlabelled images",
            }.get(which, "run the ingestion pipeline")
            raise DataError(f"this dataset has no {which} set: {where}")
        return self._existing(f"index_{which}.parquet")

    def frame(self, which: str) -> pd.DataFrame:
        """The image index of a set as a frame of samples."""
        from hgnetv2_pipeline.data.index import read_index

        return read_index(self.index(which))

    def pool_sources(self) -> list[ScannedSource]:
        """The sources of the pool, by name."""
        from hgnetv2_pipeline.durable import read_json

        self.index("pool")
        values = read_json(self._existing("pool_sources.json"))
        return [ScannedSource(name=name, **known) for name, known in sorted(values.items())]

    def _existing(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise DataError(f"{path} is missing: run kedro run --pipeline ingestion")
        return path


def count_rows(index: Path) -> int:
    """Images in an index, without reading it."""
    import pyarrow.parquet as pq

    return int(pq.ParquetFile(index).metadata.num_rows)
