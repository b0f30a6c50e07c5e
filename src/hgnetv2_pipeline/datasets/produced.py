"""Datasets whose file a node has already written when it returns the file's path.

A training run writes for days, resumes, and must not be written again when it still stands; so the
room writes, the node returns the path, and ``save`` only holds the two to the same place. Loading
and the Kedro-Viz previews (table, image, curve, JSON) are what one would expect of the file.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from kedro.io import AbstractDataset, DatasetError
from kedro_datasets._typing import (
    HTMLPreview,
    ImagePreview,
    JSONPreview,
    PlotlyPreview,
    TablePreview,
)

from hgnetv2_pipeline.durable import read_json


class _Produced(AbstractDataset[Path, Any]):
    """Common part: one path, checked on save."""

    def __init__(self, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath = PurePosixPath(filepath)
        self.metadata = metadata

    @property
    def path(self) -> Path:
        """The file or folder."""
        return Path(self._filepath)

    def save(self, data: Path) -> None:
        if Path(data) != self.path:
            raise DatasetError(f"a node wrote {data} where the catalog expects {self.path}")
        if not self.path.exists():
            raise DatasetError(f"a node promised {self.path} and did not write it")

    def _exists(self) -> bool:
        return self.path.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}


def _json_preview(path: Path) -> JSONPreview:
    """What the file holds, or why it cannot be shown: Viz's page parses the text unguarded."""
    if not path.is_file():
        return JSONPreview("{}")
    try:
        return JSONPreview(json.dumps(read_json(path)))
    except (OSError, ValueError, RecursionError) as error:
        return JSONPreview(json.dumps({f"{path.name} cannot be read": str(error)}))


class ResultFolder(_Produced):
    """A folder with a result; loads as its path. Its manifest, if it has one, is the preview.

    Loading does not ask whether it exists: the node that needs it says which command makes it.
    """

    def load(self) -> Path:
        return self.path

    def preview(self) -> JSONPreview:
        """The manifest."""
        return _json_preview(self.path / "manifest.json")


class TableFile(_Produced):
    """A parquet or CSV file; loads as a DataFrame."""

    def load(self) -> Any:
        import pandas as pd

        if self.path.suffix == ".parquet":
            return pd.read_parquet(self.path)
        return pd.read_csv(self.path)

    def preview(self, nrows: int = 20) -> TablePreview:
        """The first rows; nothing while the file is not made yet."""
        if not self._exists():
            return TablePreview({})
        frame = self._first(nrows).astype(str)
        return TablePreview(json.loads(frame.to_json(orient="split")))

    def _first(self, nrows: int) -> Any:
        """The first rows without the rest: a mined list has millions."""
        import pandas as pd
        import pyarrow.parquet as pq

        if self.path.suffix != ".parquet":
            return pd.read_csv(self.path, nrows=nrows)
        with pq.ParquetFile(self.path) as file:
            batch = next(file.iter_batches(nrows), None)
            return (
                file.schema_arrow.empty_table().to_pandas() if batch is None else batch.to_pandas()
            )


class JsonFile(_Produced):
    """A JSON file; loads as what it holds."""

    def load(self) -> Any:
        return json.loads(self.path.read_text(encoding="utf-8"))

    def preview(self) -> JSONPreview:
        """The whole file; nothing while it is not made yet."""
        return _json_preview(self.path)


class ImageFile(_Produced):
    """A PNG picture; loads as its path."""

    def load(self) -> Path:
        return self.path

    def preview(self) -> ImagePreview:
        """The picture; nothing while it is not made yet."""
        if not self._exists():
            return ImagePreview("")
        return ImagePreview(base64.b64encode(self.path.read_bytes()).decode())


class PageFile(_Produced):
    """An HTML page that loads nothing; loads as its path."""

    def load(self) -> Path:
        return self.path

    def preview(self) -> HTMLPreview:
        """The page; nothing while it is not made yet."""
        return HTMLPreview(self.path.read_text(encoding="utf-8") if self._exists() else "")


class CurveFile(_Produced):
    """A CSV of columns over ``x``, such as a ``history.csv`` of training; loads as a DataFrame.

    Args:
        x: the column that the others are drawn over, whole numbers.
        shown: the columns to draw, as far as the file has them.
    """

    def __init__(
        self,
        filepath: str,
        metadata: dict[str, Any] | None = None,
        x: str = "step",
        shown: Sequence[str] = ("loss", "val_top1", "val_map", "lr"),
    ) -> None:
        super().__init__(filepath, metadata)
        self.x, self._shown = x, tuple(shown)

    def load(self) -> Any:
        import pandas as pd

        return pd.read_csv(self.path)

    def preview(self) -> PlotlyPreview:
        """The columns, one below the other; nothing while there are none yet."""
        if not self._exists():
            return PlotlyPreview({})
        frame = self.load()
        shown = [name for name in self._shown if name in frame]
        data, layout = [], {"grid": {"rows": len(shown), "columns": 1, "pattern": "independent"}}
        for number, name in enumerate(shown, start=1):
            column = frame[[self.x, name]].dropna()
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": name,
                    "x": column[self.x].tolist(),
                    "y": column[name].tolist(),
                    "xaxis": f"x{number}",
                    "yaxis": f"y{number}",
                }
            )
        return PlotlyPreview({"data": data, "layout": layout})
