"""Catalog entries for results that the rooms write themselves: Kedro checks and shows them."""

from hgnetv2_pipeline.datasets.history import HistoryRecord, ReusedRecord, new_record
from hgnetv2_pipeline.datasets.produced import (
    CurveFile,
    ImageFile,
    JsonFile,
    JsonTable,
    PageFile,
    ResultFolder,
    ResultPath,
    TableFile,
)

__all__ = [
    "CurveFile",
    "HistoryRecord",
    "ImageFile",
    "JsonFile",
    "JsonTable",
    "PageFile",
    "ResultPath",
    "ResultFolder",
    "TableFile",
    "ReusedRecord",
    "new_record",
]
