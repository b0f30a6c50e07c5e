"""From an image file to a batch: lists, scans, splits, pixels, augmentation, batches, quarantine.

Everything but ``loader`` works without torch. Names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hgnetv2_pipeline.data import loader as loader
    from hgnetv2_pipeline.data.agreement import check_lists as check_lists
    from hgnetv2_pipeline.data.augment import make_augment as make_augment
    from hgnetv2_pipeline.data.balance import class_weights as class_weights
    from hgnetv2_pipeline.data.balance import positive_weights as positive_weights
    from hgnetv2_pipeline.data.balance import sampling_weights as sampling_weights
    from hgnetv2_pipeline.data.classmap import read_class_map as read_class_map
    from hgnetv2_pipeline.data.classmap import read_synset_map as read_synset_map
    from hgnetv2_pipeline.data.classmap import write_class_map as write_class_map
    from hgnetv2_pipeline.data.decode import decode_image as decode_image
    from hgnetv2_pipeline.data.imagenet import scan_imagenet as scan_imagenet
    from hgnetv2_pipeline.data.index import read_bytes as read_bytes
    from hgnetv2_pipeline.data.index import read_index as read_index
    from hgnetv2_pipeline.data.index import write_index as write_index
    from hgnetv2_pipeline.data.keyed import epoch_order as epoch_order
    from hgnetv2_pipeline.data.keyed import keyed_rng as keyed_rng
    from hgnetv2_pipeline.data.leaks import clean_sets as clean_sets
    from hgnetv2_pipeline.data.leaks import find_leaks as find_leaks
    from hgnetv2_pipeline.data.leaks import report_leaks as report_leaks
    from hgnetv2_pipeline.data.lists import read_list as read_list
    from hgnetv2_pipeline.data.lists import write_list as write_list
    from hgnetv2_pipeline.data.multilabel import images_per_class as images_per_class
    from hgnetv2_pipeline.data.multilabel import is_multi_label as is_multi_label
    from hgnetv2_pipeline.data.multilabel import label_matrix as label_matrix
    from hgnetv2_pipeline.data.multilabel import label_text as label_text
    from hgnetv2_pipeline.data.multilabel import write_multi_label_list as write_multi_label_list
    from hgnetv2_pipeline.data.perceptual import near_groups as near_groups
    from hgnetv2_pipeline.data.perceptual import near_pairs as near_pairs
    from hgnetv2_pipeline.data.perceptual import phash64 as phash64
    from hgnetv2_pipeline.data.preprocess import Preprocess as Preprocess
    from hgnetv2_pipeline.data.quarantine import Ledger as Ledger
    from hgnetv2_pipeline.data.report import contact_sheet as contact_sheet
    from hgnetv2_pipeline.data.report import summarise_samples as summarise_samples
    from hgnetv2_pipeline.data.report import summarise_sets as summarise_sets
    from hgnetv2_pipeline.data.resized import resized_copy as resized_copy
    from hgnetv2_pipeline.data.sample import write_sample as write_sample
    from hgnetv2_pipeline.data.scan import Scan as Scan
    from hgnetv2_pipeline.data.scan import scan_folder_tree as scan_folder_tree
    from hgnetv2_pipeline.data.scan import scan_list as scan_list
    from hgnetv2_pipeline.data.scan import scan_multi_label as scan_multi_label
    from hgnetv2_pipeline.data.scan import scan_unlabelled as scan_unlabelled
    from hgnetv2_pipeline.data.split import conflicting_copies as conflicting_copies
    from hgnetv2_pipeline.data.split import split_samples as split_samples
    from hgnetv2_pipeline.data.teacher_logits import TeacherLogits as TeacherLogits

_HOMES = {
    "agreement": ["check_lists"],
    "augment": ["make_augment"],
    "balance": ["class_weights", "positive_weights", "sampling_weights"],
    "classmap": ["read_class_map", "read_synset_map", "write_class_map"],
    "decode": ["decode_image"],
    "imagenet": ["scan_imagenet"],
    "index": ["read_bytes", "read_index", "write_index"],
    "resized": ["resized_copy"],
    "keyed": ["epoch_order", "keyed_rng"],
    "leaks": ["clean_sets", "find_leaks", "report_leaks"],
    "lists": ["read_list", "write_list"],
    "multilabel": [
        "images_per_class",
        "is_multi_label",
        "label_matrix",
        "label_text",
        "write_multi_label_list",
    ],
    "perceptual": ["near_groups", "near_pairs", "phash64"],
    "preprocess": ["Preprocess"],
    "quarantine": ["Ledger"],
    "report": ["contact_sheet", "summarise_samples", "summarise_sets"],
    "sample": ["write_sample"],
    "scan": ["Scan", "scan_folder_tree", "scan_list", "scan_multi_label", "scan_unlabelled"],
    "split": ["conflicting_copies", "split_samples"],
    "teacher_logits": ["TeacherLogits"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, "loader"])


def __getattr__(name: str) -> Any:
    if name == "loader":
        return importlib.import_module(f"{__name__}.loader")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
