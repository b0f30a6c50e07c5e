"""Purity by a person's word: of a random sample alone, and the min_conf that follows from it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hgnetv2_pipeline.intervals import wilson_interval
from hgnetv2_pipeline.mining.judged import judged_purity, judgement_in_words, random_order


def mined(count: int = 400) -> pd.DataFrame:
    keys = pd.Series([f"pool/{number}.png" for number in range(count)], dtype="str")
    return pd.DataFrame({"key": keys, "score": np.linspace(0.2, 0.9999, count)})


def decided(rows: pd.DataFrame, words: list[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {"list": "mined", "key": rows["key"], "decision": words, "label": "", "shown": "cat",
         "score": rows["score"].map("{:.4f}".format)}
    )  # fmt: skip


def test_only_what_was_judged_without_a_gap_from_the_start_counts() -> None:
    rows = mined()
    order = rows.iloc[random_order(rows["key"])]
    first = decided(order.head(30), ["keep"] * 24 + ["remove"] * 6)
    # Doubtful ones, looked at because they were doubtful: all wrong, and no sample.
    doubted = order.iloc[40:].sort_values("score").head(50)
    both = pd.concat([first, decided(doubted, ["relabel"] * 50)])
    found = judged_purity(rows, both)
    assert (found["judged"], found["right"]) == (30, 24)
    assert (found["low"], found["high"]) == wilson_interval(24, 30)
    # What was removed has left the list, and was judged all the same.
    left = rows[~rows["key"].isin(both["key"][both["decision"] != "keep"])]
    assert judged_purity(left, both)["judged"] == 30
    assert "24 of 30 mined images are right, a purity of 80.0%" in judgement_in_words(found)[0]


@pytest.mark.parametrize("limit", [0.4, 0.7])
def test_the_limit_is_where_the_wanted_purity_begins(limit: float) -> None:
    """All above the limit are right and all below it wrong: 0.99 needs just that limit."""
    rows = mined()
    words = ["keep" if score >= limit else "remove" for score in rows["score"]]
    found = judged_purity(rows, decided(rows, words))
    assert found["judged"] == 400 and found["right"] == words.count("keep")
    by_purity = {row["wanted"]: row for row in found["min_conf"]}
    least = by_purity[0.99]["min_conf"]
    above = rows["score"] >= least
    assert np.mean([word == "keep" for word in np.array(words)[above]]) >= 0.99
    assert limit - 0.02 < least <= limit
    assert by_purity[0.9]["min_conf"] < least and by_purity[0.9]["share"] > by_purity[0.99]["share"]


def test_too_few_say_nothing_of_a_limit() -> None:
    rows = mined()
    order = rows.iloc[random_order(rows["key"])]
    found = judged_purity(rows, decided(order.head(5), ["keep"] * 5))
    assert found["min_conf"] == [] and found["purity"] == 1.0 and found["low"] < 0.6
    assert judged_purity(rows, decided(order.head(0), []))["judged"] == 0
