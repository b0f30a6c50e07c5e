"""Catalog entries for results that the rooms write themselves: Kedro checks and shows them."""

from hgnetv2_pipeline.datasets.history import HistoryRecord, Unchanged, new_record
from hgnetv2_pipeline.datasets.produced import (
    CurveFile,
    ImageFile,
    JsonFile,
    PageFile,
    Produced,
    ResultFolder,
    TableFile,
)

__all__ = [
    "CurveFile",
    "HistoryRecord",
    "ImageFile",
    "JsonFile",
    "PageFile",
    "Produced",
    "ResultFolder",
    "TableFile",
    "Unchanged",
    "new_record",
]
