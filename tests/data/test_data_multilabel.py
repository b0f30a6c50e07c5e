"""Lists of several labels an image: read, refused, written; the same rules for paths as ever."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hgnetv2_pipeline.data import label_matrix, read_list, write_multi_label_list
from hgnetv2_pipeline.data.grammar import why_unlistable
from hgnetv2_pipeline.errors import DataError, ParameterError


def test_labels_become_a_matrix_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(
        b"\xef\xbb\xbfmy cat.jpg\t0,1,0\r\n\r\n# note\r\n./#x.jpg\t1,1,0\r\nc.jpg\t0,1,0"
    )
    frame = read_list(path, num_classes=3, multi_label=True)
    assert list(frame["path"]) == ["my cat.jpg", "#x.jpg", "c.jpg"]
    assert label_matrix(frame).tolist() == [[0, 1, 0], [1, 1, 0], [0, 1, 0]]
    assert label_matrix(frame).dtype == np.uint8
    assert label_matrix(frame.iloc[[2, 1]]).tolist() == [[0, 1, 0], [1, 1, 0]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a.jpg\t0,1\nb.jpg\t1\n", ":2: 1 labels where 2 are expected"),
        (b"a.jpg 1\n", ":1: no tab in 'a.jpg 1'; write"),
        (b"a.jpg\t0,2\n", ":1: labels '0,2'"),
        (b"a.jpg\t\n", ":1: labels ''"),
        (b"a.jpg\t0,1,\n", ":1: labels '0,1,'"),
        (b"a.jpg\t1 ,0\n", ":1: labels '1 ,0'"),
        (b"a.jpg\t0;1\n", ":1: labels '0;1'"),
        (b"a.jpg \t0,1\n", ":1: a space around the path"),
        (b"a\tb.jpg\t0,1\n", ":1: control character 0x09"),
        (b"../a.jpg\t0,1\n", ":1: .*leads out of the root"),
        (b"/a.jpg\t0,1\n", ":1: absolute path"),
        (b"a.jpg\t0,1\ncaf\xe9\t0,1\n", ":2: byte 0xe9 is not UTF-8 at byte 13"),
        (b"a.jpg\t0,1\n\0\t0,1\n", ":2: a NUL byte at byte 10"),
        ("a.jpg\t0,1\n".encode("utf-16"), ":1: UTF-16"),
        (b"a.jpg\t0,1\na.jpg\t0,1\n", ":2: 'a.jpg' is listed already in line 1"),
        (b"a.jpg\t0,1\na.jpg\t1,1\n", ":2: 'a.jpg' has label 1,1 here and 0,1 in line 1"),
        (b"# nothing\n", "0 samples"),
        (b"a.jpg\t" + b"0," * 1_000_000 + b"1\n", ":1: the line is longer than"),
    ],
)
def test_a_bad_line_is_refused_with_place_and_remedy(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"list\.txt.*{said}"):
        read_list(path, multi_label=True)


def test_files_classes_and_duplicates_are_checked_as_in_other_lists(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    (tmp_path / "a.jpg").write_bytes(b"x")
    path.write_text("a.jpg\t0,1\nb.jpg\t0,1\nb.jpg\t0,1\n")
    assert len(read_list(path, multi_label=True, duplicates="drop")) == 2
    with pytest.raises(DataError, match="list.txt:2: 1 of 2 files cannot be used.*missing"):
        read_list(path, tmp_path, multi_label=True, duplicates="drop")
    with pytest.raises(DataError, match="1 of 2 classes have no image, class 0"):
        read_list(path, multi_label=True, duplicates="drop", every_class=True)
    with pytest.raises(DataError, match=":1: 2 labels where 5 are expected"):
        read_list(path, num_classes=5, multi_label=True)
    with pytest.raises(ParameterError, match="has labels or has none"):
        read_list(path, multi_label=True, labelled=False)
    with pytest.raises(DataError, match="the list is missing"):
        read_list(tmp_path / "no.txt", multi_label=True)


NAME = st.text("abé日 #.-/", min_size=1, max_size=9)


@settings(max_examples=60, deadline=None)
@given(st.lists(NAME, min_size=1, max_size=6, unique=True), st.integers(1, 5), st.integers(0, 9))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], classes: int, seed: int
) -> None:
    names = [name for name in names if why_unlistable(name) is None]
    if not names:
        return
    labels = np.random.default_rng(seed).integers(0, 2, (len(names), classes), np.uint8)
    path = write_multi_label_list(tmp_path_factory.getbasetemp() / "multi.txt", names, labels)
    frame = read_list(path, multi_label=True)
    assert list(frame["path"]) == names and np.array_equal(label_matrix(frame), labels)


def test_what_is_no_matrix_of_labels_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    for labels in (np.zeros((2, 3)), np.full((1, 3), 2), np.zeros(3)):
        with pytest.raises(DataError, match="a matrix of 0 and 1"):
            write_multi_label_list(path, ["a.jpg"], labels)
    with pytest.raises(DataError, match="cannot stand in a list"):
        write_multi_label_list(path, ["../a.jpg"], np.zeros((1, 3), np.uint8))
    assert not path.exists()
