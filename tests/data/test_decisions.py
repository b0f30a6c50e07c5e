"""review.csv: every decision is kept, odd rows are named, labelled images obey."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from hgnetv2_pipeline.data.decisions import (
    Decision,
    StaleDecisionError,
    move_labelled,
    obey_labels,
    read_decisions,
    record_decision,
    refuse_lost_classes,
    relabelling,
)
from hgnetv2_pipeline.data.index import samples_frame
from hgnetv2_pipeline.errors import DataError

CLASSES = ["cat", "dog", "=1+2"]
HOSTILE = ["=1+2.jpg", "'=x.jpg", "a\u202eb.jpg", 'q",\n.jpg', "<img src=x>.jpg", "plain.jpg"]


def row(key: str, decision: str, label: str = "", where: str = "mined") -> dict[str, str]:
    return {"list": where, "key": key, "decision": decision, "label": label, "shown": "cat",
            "score": "0.5000"}  # fmt: skip


def samples(keys: list[str], label: int | None) -> pd.DataFrame:
    return samples_frame(
        (key, key, -1, 1, label, 8, 8, "PNG", f"{number}{label}") for number, key in enumerate(keys)
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "set").mkdir()
    return tmp_path / "set" / "review.csv"


def test_decisions_are_written_changed_and_undone(file: Path) -> None:
    record_decision(file, row("a.png", "keep"), Decision())
    record_decision(file, row("b.png", "relabel", "=1+2"), Decision())
    record_decision(file, row("a.png", "remove"), Decision("keep"))
    rows = read_decisions(file, CLASSES).set_index("key")
    assert rows["decision"].to_dict() == {"a.png": "remove", "b.png": "relabel"}
    record_decision(file, row("a.png", "review"), Decision("remove"))
    record_decision(file, row("b.png", "review"), Decision("relabel", "=1+2"))
    assert read_decisions(file).empty


def test_what_somebody_else_decided_is_not_overwritten(file: Path) -> None:
    record_decision(file, row("a.png", "keep"), Decision())
    with pytest.raises(StaleDecisionError, match="a.png was decided elsewhere meanwhile: keep"):
        record_decision(file, row("a.png", "remove"), Decision())
    # The pool's lists are about the same image; a labelled one of that name is another.
    with pytest.raises(StaleDecisionError):
        record_decision(file, row("a.png", "remove", where="label_next"), Decision())
    record_decision(file, row("a.png", "remove", where="labels"), Decision())
    assert sorted(read_decisions(file)["decision"]) == ["keep", "remove"]


def _decide(file: Path, names: list[str]) -> None:
    for name in names:
        record_decision(file, row(name, "keep"), Decision())


def test_two_processes_and_threads_lose_nothing(file: Path) -> None:
    names = [f"{number}.png" for number in range(24)]
    context = multiprocessing.get_context("fork")
    other = context.Process(target=_decide, args=(file, names[:8]))
    other.start()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda part: _decide(file, part), (names[8:16], names[16:])))
    other.join()
    assert other.exitcode == 0
    assert sorted(read_decisions(file)["key"]) == sorted(names)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("list,key,decision\nlabel,x,keep", r"line 2: list 'label'; write duplicates, mined"),
        ("list,key,decision\nlabel_next,x,keep", "line 2: decision 'keep' of x; write remove"),
        ("key,decision\nx,relabel", "decision 'relabel' of x; write keep, remove, review"),
        ("list,key,decision,label\nmined,y,keep,\nmined,x,relabel,", "line 3: a label belongs"),
        ("list,key,decision,label\nmined,x,keep,cat", "line 2: a label belongs to relabel"),
        ("list,key,decision,label\nmined,x,relabel,cow", "line 2: 'cow' of x is no class.*cat"),
        ("list,key,decision\nmined,x,keep\nlabel_next,x,remove", "lists x twice"),
        ("key\nx", "lacks the column decision"),
    ],
)
def test_a_row_that_is_not_understood_is_named(file: Path, lines: str, said: str) -> None:
    file.write_text(lines + "\n")
    with pytest.raises(DataError, match=said):
        read_decisions(file, CLASSES)


def test_an_older_file_is_about_duplicates(file: Path) -> None:
    file.write_text("key,decision\nx.png,Remove\n")
    rows = read_decisions(file)
    assert rows[["list", "key", "decision"]].values.tolist() == [["duplicates", "x.png", "remove"]]
    assert relabelling(rows) == ""


def test_labelled_images_are_relabelled_and_removed(file: Path) -> None:
    sets = {"train": samples(HOSTILE, 0), "val": samples(["v.png"], 0)}
    for key in HOSTILE[:3]:
        record_decision(file, row(key, "relabel", "=1+2", "labels"), Decision())
    record_decision(file, row("plain.jpg", "remove", where="labels"), Decision())
    record_decision(file, row("v.png", "keep", where="labels"), Decision())
    rows = read_decisions(file, CLASSES)
    obeyed, removed = obey_labels(sets, rows, CLASSES)
    labels = obeyed["train"].set_index("key")["label"]
    assert labels.to_dict() == {key: 2 if key in HOSTILE[:3] else 0 for key in HOSTILE[:5]}
    assert removed["key"].tolist() == ["plain.jpg"]
    assert obeyed["val"].equals(sets["val"])
    assert relabelling(rows).count("\n") == 3, "what was kept changes nothing"


def test_pool_images_with_a_persons_class_join_train(file: Path) -> None:
    sets = {"train": samples(["t.png"], 0), "val": samples(["v.png"], 0)}
    sets["pool"] = samples(["p.png", "q.png", "r.png"], None)
    record_decision(file, row("q.png", "relabel", "dog", "label_next"), Decision())
    record_decision(file, row("r.png", "keep"), Decision())
    rows = read_decisions(file, CLASSES)
    moved = move_labelled(sets, rows, CLASSES)
    assert moved["pool"]["key"].tolist() == ["p.png", "r.png"]
    assert moved["train"].set_index("key")["label"].to_dict() == {"t.png": 0, "q.png": 1}
    same = {**sets, "val": sets["pool"].assign(key=["x", "y", "z"])}
    with pytest.raises(DataError, match="q.png has the same bytes as an image of val"):
        move_labelled(same, rows, CLASSES)


@pytest.mark.parametrize(
    ("decisions", "lost"),
    [
        ([row("c.png", "remove", where="labels")], "class 'cat' without"),
        ([row("c.png", "relabel", "=1+2", "labels")], "class 'cat' without"),
        (
            [row("c.png", "remove", where="labels"), row("d.png", "remove", where="labels")],
            r"class 'cat' \(and 1 more\) without",
        ),
        ([row("c.png", "remove", where="labels"), row("p.png", "relabel", "cat")], None),
        ([row("c.png", "keep", where="labels")], None),
    ],
)
def test_a_class_that_loses_its_last_image_is_named_with_the_ways_out(
    file: Path, decisions: list[dict[str, str]], lost: str | None
) -> None:
    """Class ``=1+2`` has no image before either, and is no loss."""
    train = pd.concat([samples(["c.png"], 0), samples(["d.png"], 1)], ignore_index=True)
    sets = {"train": train, "val": samples(["v.png"], 0), "pool": samples(["p.png"], None)}
    for each in decisions:
        record_decision(file, each, Decision())
    rows = read_decisions(file, CLASSES)
    moved = move_labelled(obey_labels(sets, rows, CLASSES)[0], rows, CLASSES)
    if lost is None:
        refuse_lost_classes(train, moved["train"], CLASSES)
        return
    with pytest.raises(DataError, match=f"review.csv leaves {lost} an image in train; undo some"):
        refuse_lost_classes(train, moved["train"], CLASSES)
