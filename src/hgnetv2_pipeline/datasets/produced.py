"""Datasets whose file a node has already written when it returns the file's path.

A training run writes for days, resumes, and must not be written again while it is valid; so the
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


class ResultPath(AbstractDataset[Path, Any]):
    """Common part: one path, checked on save.

    Args:
        filepath: the file or folder.
        shows: of a folder with a result, the file that is previewed (and recorded by MLflow). Such
            a dataset loads as the folder's path; one without it loads as what the file holds.
    """

    def __init__(
        self, filepath: str, metadata: dict[str, Any] | None = None, shows: str | None = None
    ) -> None:
        self._filepath = PurePosixPath(filepath)
        self._shows = shows
        self.metadata = metadata

    @property
    def path(self) -> Path:
        """The file or folder."""
        return Path(self._filepath)

    @property
    def file(self) -> Path:
        """The file that is previewed."""
        return self.path / self._shows if self._shows else self.path

    def load(self) -> Any:
        # Not asked whether it exists: the node that needs a folder says which command makes it.
        return self.path if self._shows else self._content()

    def _content(self) -> Any:
        return self.path

    def save(self, data: Path) -> None:
        if Path(data) != self.path:
            raise DatasetError(f"a node wrote {data} where the catalog expects {self.path}")
        if not self.path.exists():
            raise DatasetError(f"a node promised {self.path} and did not write it")

    def _exists(self) -> bool:
        return self.file.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "shows": self._shows}


def _json_preview(path: Path) -> JSONPreview:
    """What the file holds, or why it cannot be shown: Viz's page parses the text unguarded."""
    if not path.is_file():
        return JSONPreview("{}")
    try:
        return JSONPreview(json.dumps(read_json(path)))
    except (OSError, ValueError, RecursionError) as error:
        return JSONPreview(json.dumps({f"{path.name} cannot be read": str(error)}))


class ResultFolder(ResultPath):
    """A result that loads as its path. Its manifest, if it has one, is the preview."""

    def preview(self) -> JSONPreview:
        """The manifest."""
        return _json_preview(self.path / "manifest.json")


class TableFile(ResultPath):
    """A parquet or CSV file; loads as a DataFrame."""

    def _content(self) -> Any:
        import pandas as pd

        if self.file.suffix == ".parquet":
            return pd.read_parquet(self.file)
        return pd.read_csv(self.file)

    def preview(self, nrows: int = 20) -> TablePreview:
        """The first rows; nothing while the file is not made yet."""
        if not self.file.is_file():
            return TablePreview({})
        frame = self._first(nrows).astype(str)
        return TablePreview(json.loads(frame.to_json(orient="split")))

    def _first(self, nrows: int) -> Any:
        """The first rows without the rest: a mined list has millions."""
        import pandas as pd
        import pyarrow.parquet as pq

        if self.file.suffix != ".parquet":
            return pd.read_csv(self.file, nrows=nrows)
        with pq.ParquetFile(self.file) as file:
            batch = next(file.iter_batches(nrows), None)
            return (
                file.schema_arrow.empty_table().to_pandas() if batch is None else batch.to_pandas()
            )


class JsonFile(ResultPath):
    """A JSON file; loads as what it holds."""

    def _content(self) -> Any:
        return json.loads(self.file.read_text(encoding="utf-8"))

    def preview(self) -> JSONPreview:
        """The whole file; nothing while it is not made yet."""
        return _json_preview(self.file)


class JsonTable(JsonFile):
    """A JSON file whose list ``rows`` is shown as a table of ``columns``."""

    def __init__(
        self,
        filepath: str,
        rows: str,
        columns: Sequence[str],
        metadata: dict[str, Any] | None = None,
        shows: str | None = None,
    ) -> None:
        super().__init__(filepath, metadata, shows)
        self._rows, self._columns = rows, list(columns)

    def preview(self) -> TablePreview:  # type: ignore[override]
        """The rows; nothing while the file is not made yet."""
        if not self.file.is_file():
            return TablePreview({})
        rows = [
            ["" if row.get(name) is None else str(row[name]) for name in self._columns]
            for row in read_json(self.file)[self._rows]
        ]
        return TablePreview({"index": [*range(len(rows))], "columns": self._columns, "data": rows})


class ImageFile(ResultPath):
    """A PNG picture; loads as its path."""

    def preview(self) -> ImagePreview:
        """The picture; nothing while it is not made yet."""
        if not self.file.is_file():
            return ImagePreview("")
        return ImagePreview(base64.b64encode(self.file.read_bytes()).decode())


class PageFile(ResultPath):
    """An HTML page that loads nothing; loads as its path."""

    def preview(self) -> HTMLPreview:
        """The page; nothing while it is not made yet."""
        return HTMLPreview(self.file.read_text(encoding="utf-8") if self.file.is_file() else "")


class CurveFile(ResultPath):
    """A CSV of columns over ``x``, such as a ``history.csv`` of training; loads as a DataFrame.

    Args:
        shows: as of every dataset here.
        x: the column that the others are drawn over, whole numbers.
        columns: those to draw, as far as the file has them.
    """

    def __init__(
        self,
        filepath: str,
        metadata: dict[str, Any] | None = None,
        shows: str | None = None,
        x: str = "step",
        columns: Sequence[str] = ("loss", "val_top1", "val_map", "lr"),
    ) -> None:
        super().__init__(filepath, metadata, shows)
        self.x, self._columns = x, tuple(columns)

    def _content(self) -> Any:
        import pandas as pd

        return pd.read_csv(self.file)

    def preview(self) -> PlotlyPreview:
        """The columns, one below the other; nothing while there are none yet.

        A column with one value is no curve: its value is in the title.
        """
        if not self.file.is_file():
            return PlotlyPreview({})
        frame = self._content()
        columns = {name: frame[[self.x, name]].dropna() for name in self._columns if name in frame}
        curves = {name: column for name, column in columns.items() if len(column) > 1}
        single = [f"{n} {c[n].iloc[0]:.4g}" for n, c in columns.items() if len(c) == 1]
        title = ", ".join(["/".join(self.path.parts[-3:]), *single])
        layout: dict[str, Any] = {
            "title": {"text": title, "font": {"size": 12}},
            "grid": {"rows": len(curves), "columns": 1, "pattern": "independent"},
            "showlegend": False,
            "height": 120 + 200 * len(curves),
        }
        data = []
        for number, (name, column) in enumerate(curves.items(), start=1):
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
            # Plotly's first axes have no number.
            which = "" if number == 1 else str(number)
            layout[f"xaxis{which}"] = {"title": {"text": self.x}}
            layout[f"yaxis{which}"] = {"title": {"text": name}}
        return PlotlyPreview({"data": data, "layout": layout})
