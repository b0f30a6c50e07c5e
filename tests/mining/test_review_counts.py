"""What a person decided is obeyed, told apart from the machine's opinion, and counted."""

from __future__ import annotations

import pandas as pd

from hgnetv2_pipeline.mining.review import apply_review, count_decisions


def pairs() -> pd.DataFrame:
    rows = [("a", "remove"), ("b", "review"), ("c", "keep"), ("d", "review"), ("e", "remove")]
    frame = pd.DataFrame(rows, columns=["key", "decision"]).assign(channel="phash")
    numbers = {"distance": 3, "inliers": 0, "correlation": 0.9, "high_pass": 0.8}
    return frame.assign(val_key="v", protected="val", **numbers)


def test_a_persons_word_is_counted_and_named_as_such() -> None:
    words = [("a", "keep"), ("b", "remove"), ("c", "remove"), ("d", "review"), ("z", "remove")]
    review = pd.DataFrame(words, columns=["key", "decision"])
    counts = count_decisions(pairs(), review)
    # a and c against the machine, z where it had nothing to say; b was in doubt.
    assert counts == {"obeyed": 4, "kept": 1, "removed": 3, "changed": 3, "waiting": 1}
    out = apply_review(pairs(), review).set_index("key")
    assert out["decision"].to_dict() == {
        "a": "keep", "b": "remove", "c": "remove", "d": "review", "e": "remove", "z": "remove",
    }  # fmt: skip
    assert out.index[out["channel"] == "person"].tolist() == ["b", "c", "z"]
    assert out.loc["c", "val_key"] == "v"
