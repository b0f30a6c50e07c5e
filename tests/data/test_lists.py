"""Lists: rows L01-L20 of the matrix of bad input, and the parser against its own grammar."""

import os
import re
import tarfile

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hgnetv2_pipeline.data.classmap import read_class_map, write_class_map
from hgnetv2_pipeline.data.lists.kinds import ListKind, delimiter_of, kind_of_list
from hgnetv2_pipeline.data.lists.read import read_list, write_list
from hgnetv2_pipeline.data.lists.syntax import (
    DELIMITERS,
    Grammar,
    parse_line,
    parse_list,
    why_unlistable,
)
from hgnetv2_pipeline.errors import DataError, ParameterError


@pytest.fixture
def listed(tmp_path):
    def write(content: bytes):
        path = tmp_path / "list.txt"
        path.write_bytes(content)
        return path

    return write


# The rows of the matrix of faults are in test_fault_matrix.py; here is what else can go wrong.
@pytest.mark.parametrize(
    ("content", "place", "remedy"),
    [
        (b"a/../../x.JPEG 3\n", ":1:", "leads out of the root"),
        (b"a/.. 3\n", ":1:", "leads out of the root"),
        (b"C:\\x.jpg 3\n", ":1:", "relative to the root"),
        (b"a.jpg 0\nb.jpg 7\n", ":2:", "outside the 5 classes 0-4"),
        (b"a.jpg 0\n\n\nb.jpg\n", ":4:", "no label"),
        (b" a.jpg 3\n", ":1:", "exactly one space"),
        (b"a.jpg 3 \n", ":1:", "space at the end"),
        (b"a\rb.jpg 3\n", ":1:", "control character"),
        (b"a\x07.jpg 3\n", ":1:", "control character"),
        (b"a.jpg 0\nb.jpg 1\na.jpg 0\n", ":3:", "already in line 1"),
        (b"a.jpg 0\n./a.jpg 0\n", ":2:", "already in line 1"),
        (b"a.jpg 0\n" + b"x" * 9000 + b" 3\n", ":2:", "longer than"),
    ],
)
def test_bad_lists_are_refused_with_line_and_remedy(listed, content, place, remedy):
    path = listed(content)
    with pytest.raises(DataError) as caught:
        read_list(path, num_classes=5)
    message = str(caught.value)
    assert f"list.txt{place}" in message and remedy in message and "\n" not in message


def test_spaces_in_names_crlf_bom_blank_lines_and_comments_are_accepted(listed):
    content = b"\xef\xbb\xbf# a list\r\nmy cat.JPEG 3\r\n\r\n./dir//b 12.png 007\r\n"
    content += b"./#odd.jpg 0\r\nlast.jpg 1"
    frame = read_list(listed(content))
    assert list(frame["path"]) == ["my cat.JPEG", "dir/b 12.png", "#odd.jpg", "last.jpg"]
    assert list(frame["label"]) == [3, 7, 0, 1]
    assert frame["label"].dtype == "Int64" and list(frame.columns) == ["path", "label"]


def test_a_repeated_line_is_dropped_if_asked(listed):
    frame = read_list(listed(b"a.jpg 0\na.jpg 0\nb.jpg 1\n"), duplicates="drop")
    assert list(frame["path"]) == ["a.jpg", "b.jpg"]
    with pytest.raises(ParameterError, match="'refuse' or 'drop'"):
        read_list(listed(b"a.jpg 0\n"), duplicates="keep")


def test_a_class_without_an_image_is_refused_if_asked(listed):
    path = listed(b"a.jpg 0\nb.jpg 2\n")
    assert len(read_list(path)) == 2
    with pytest.raises(DataError, match="1 of 3 classes have no image: 1"):
        read_list(path, every_class=True)
    with pytest.raises(DataError, match="2 of 4 classes have no image: 1, 3"):
        read_list(path, num_classes=4, every_class=True)


def test_a_list_without_labels(listed):
    frame = read_list(listed(b"a.jpg\nmy dir/b 3.jpg\n"), labelled=False)
    assert list(frame["path"]) == ["a.jpg", "my dir/b 3.jpg"] and frame["label"].isna().all()


def test_missing_list(tmp_path):
    with pytest.raises(DataError, match="missing"):
        read_list(tmp_path / "no.txt")
    with pytest.raises(DataError, match="directory"):
        read_list(tmp_path)


def test_with_a_root_every_file_must_be_a_regular_file_inside(tmp_path, listed):
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "sub").mkdir(parents=True)
    outside.mkdir()
    (root / "sub" / "good é.jpg").write_bytes(b"x")
    (outside / "o.jpg").write_bytes(b"x")
    (root / "link.jpg").symlink_to(outside / "o.jpg")
    (root / "loop").symlink_to(root)
    (root / "inner.jpg").symlink_to(root / "sub" / "good é.jpg")
    (root / "away").symlink_to(outside)
    os.mkfifo(root / "pipe.jpg")
    with tarfile.open(root / "a.tar", "w") as tar:
        tar.add(outside / "o.jpg", "in side.jpg")
    good = "sub/good é.jpg 0\ninner.jpg 0\na.tar!in side.jpg 1\n".encode()
    assert len(read_list(listed(good), root)) == 3
    for line, reason in [
        ("absent.jpg 0", "missing"),
        ("sub 0", "a directory"),
        ("pipe.jpg 0", "not a regular file"),
        ("link.jpg 0", "leads out of the root"),
        ("away/o.jpg 0", "leads out of the root"),
        ("a.tar!no.jpg 0", "no such member"),
        ("b.tar!no.jpg 0", "missing"),
    ]:
        with pytest.raises(DataError, match=f"list.txt:4: 1 of 4 .*line 4.*{reason}"):
            read_list(listed(good + line.encode() + b"\n"), root)
    for line in (b"link.jpg 0\n", b"away/o.jpg 0\n"):
        assert len(read_list(listed(good + line), root, trusted_roots=[outside])) == 4
    with pytest.raises(DataError, match="folder of images"):
        read_list(listed(good), root / "nowhere")


LINE = st.one_of(
    st.text("a/.#: 0123\t\\é", max_size=12).map(str.encode),
    st.tuples(
        st.text("abé./ 1#", min_size=1, max_size=10), st.sampled_from([" ", "  ", "\t"]),
        st.sampled_from(["0", "12", "-1", "1234567890", "x", "", "3 4"]),
    ).map(lambda parts: "".join(parts).encode()),
    st.sampled_from([b"a.jpg 3 4", b"x/./y 1", b"x/. 1", b"./ 1", b"/ 0"]),
    st.sampled_from([b"a\rb 0", b"c:/a 0", b"..a 0"]),
)  # fmt: skip


@settings(max_examples=400)
@given(st.lists(LINE, max_size=6), st.sampled_from([b"\n", b"\r\n"]), st.booleans(), st.booleans(),
       st.sampled_from([b" ", b"\t", b",", b"|", b"1"]))  # fmt: skip
@example([b"a/.. 3"], b"\n", True, False, b" ")
@example([b""], b"\r\n", True, False, b" ")
@example([b"a b.jpg\t3", b"c, 4"], b"\r\n", True, False, b"\t")
def test_the_quick_parser_agrees_with_the_grammar(
    tmp_path_factory, lines, end, labelled, final, mark
):
    path = tmp_path_factory.getbasetemp() / "hypothesis.txt"
    path.write_bytes(end.join(lines) + (end if final else b""))
    expected, failed = [], None
    for number, line in enumerate(lines, start=1):
        try:
            found = parse_line(line, Grammar(labelled, mark))
        except DataError as error:
            failed = f"{path}:{number}: {error}"
            break
        if found is not None:
            expected.append((*found, number))
    if failed is not None:
        with pytest.raises(DataError) as caught:
            parse_list(path, labelled=labelled, delimiter=mark)
        assert str(caught.value) == failed
        return
    parsed = parse_list(path, labelled=labelled, delimiter=mark)
    got = zip(parsed.paths.to_pylist(), parsed.labels.tolist(), parsed.lines.tolist(), strict=True)
    assert list(got) == expected


@settings(max_examples=150)
@given(st.binary(max_size=60))
def test_any_bytes_are_parsed_or_refused_with_a_place(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "bytes.txt"
    path.write_bytes(content)
    try:
        frame = read_list(path)
    except DataError as error:
        assert str(path) in str(error)
    else:
        parts = [part for name in frame["path"] for part in name.split("/")]
        assert ".." not in parts and "" not in parts and (frame["label"] >= 0).all()


NAME = st.text("abcé日 #!().-_0", min_size=1, max_size=12)


@settings(max_examples=100)
@given(st.dictionaries(NAME, st.integers(0, 999_999_999), min_size=1, max_size=8), st.booleans())
def test_what_is_written_is_read_back(tmp_path_factory, images, labelled):
    path = tmp_path_factory.getbasetemp() / "written.txt"
    names = [name for name in images if why_unlistable(name) is None]
    if not names:
        return
    labels = [images[name] if labelled else pd.NA for name in names]
    frame = pd.DataFrame({"path": names, "label": pd.array(labels, dtype="Int64")})
    write_list(path, frame)
    pd.testing.assert_frame_equal(
        read_list(path, labelled=labelled), frame.astype({"path": "str"}), check_dtype=True
    )


def test_lists_span_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("hgnetv2_pipeline.data.lists.syntax._CHUNK", 64)
    lines = [f"train/class {n % 7}/image_{n:05d}.JPEG {n % 7}" for n in range(500)]
    path = tmp_path / "list.txt"
    path.write_bytes("\n".join(lines).encode())
    frame = read_list(path)
    assert [f"{p} {x}" for p, x in frame.itertuples(index=False)] == lines
    path.write_bytes("\n".join([*lines[:400], "bad", *lines[400:]]).encode())
    with pytest.raises(DataError, match=":401: no label"):
        read_list(path)


@pytest.mark.parametrize(
    "name", [" a.jpg", "a.jpg ", "a\nb.jpg", "a\tb", "a/../b", "/a", "a.jpg 3"]
)
def test_names_that_cannot_stand_in_a_list_are_not_written(tmp_path, name):
    with pytest.raises(DataError, match="cannot be in a list"):
        write_list(tmp_path / "l.txt", pd.DataFrame({"path": [name], "label": [0]}))
    assert not (tmp_path / "l.txt").exists()


def test_a_half_labelled_frame_is_not_written(tmp_path):
    frame = pd.DataFrame({"path": ["a", "b"], "label": pd.array([0, pd.NA], dtype="Int64")})
    with pytest.raises(DataError, match="1 of 2 images have no label"):
        write_list(tmp_path / "l.txt", frame)


def test_class_maps_keep_spaces_and_other_alphabets(tmp_path):
    names = ["Angora, Angora rabbit", "猫", "crane", "crane"]
    path = write_class_map(tmp_path / "map.txt", names)
    assert path.read_text(encoding="utf-8").startswith("0 Angora, Angora rabbit\n1 猫\n")
    assert read_class_map(path) == names


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "0 classes"),
        (b"0 a\n2 b\n", "class 1 is missing"),
        (b"0 a\n0 b\n", "named twice"),
        (b"0 a\n1\n", "not 'id name', as other lines are"),
        (b"cat\n1 dog\n", "'cat' is not 'id name'"),
        (b"3 series\n5 series\n", "class 0 is missing"),
        (b"cat\ndog\x07\n", "control character"),
        (b"0 caf\xe9\n", "not UTF-8"),
    ],
)
def test_bad_class_maps_are_refused(tmp_path, content, reason):
    (tmp_path / "map.txt").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read_class_map(tmp_path / "map.txt")
    with pytest.raises(DataError):
        write_class_map(tmp_path / "other.txt", ["a ", "b"])


NAMES = st.text("ab é.,|/1 0", min_size=1, max_size=8).map(str.strip).filter(bool)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(NAMES, st.integers(0, 12)), min_size=2, max_size=6),
    st.sampled_from(["space", "tab", "comma", "pipe"]),
)
@example([("0_0", 0), ("1_0", 1)], "tab")  # D3: two classes behind a TAB
def test_one_number_per_line_is_one_label_whatever_is_before_it(tmp_path_factory, rows, name):
    """Of pictures by their endings: the delimiter is found, and no list becomes several labels."""
    path = tmp_path_factory.getbasetemp() / "kinds.txt"
    mark = DELIMITERS[name]
    lines = [f"{at}{text}.jpg".encode() + mark + str(label).encode()
             for at, (text, label) in enumerate(rows)]  # fmt: skip
    path.write_bytes(b"\n".join(lines) + b"\n")
    assert kind_of_list(path) == ListKind(mark, several=False)
    found = read_list(path)
    assert found["label"].tolist() == [label for _, label in rows]
    assert found["path"].str.endswith(".jpg").all()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"a.png\t0\nb.png\t1\n", ListKind(b"\t", False)),
        (b"a.png\t0,1\nb.png\t1,0\n", ListKind(b"\t", True)),
        (b"a.png 0,1\n", ListKind(b" ", True)),
        (b"my a.png,0\n", ListKind(b",", False)),
        (b"# a remark\n\n\xef\xbb\xbfa.png|7\r\n", ListKind(b"|", False)),
        (b"a.png;0\n", None),
        (b"a.png 0\nb.png\t1\n", None),
        (b"# nothing\n", None),
        (b"", None),
    ],
)
def test_what_a_list_is_is_told_by_all_of_its_lines(tmp_path, content, kind):
    (tmp_path / "list.txt").write_bytes(content)
    assert kind_of_list(tmp_path / "list.txt") == kind


@pytest.mark.parametrize("value", ["", "ab", "\n", "#", "semicolon"])
def test_a_delimiter_is_a_name_or_one_character(value):
    with pytest.raises(ParameterError, match="data.delimiter"):
        delimiter_of(value)
    assert delimiter_of("auto") is None
    assert (delimiter_of("tab"), delimiter_of(";")) == (b"\t", b";")


def test_absolute_paths_below_the_root_are_taken_through_links_too(tmp_path):
    root = tmp_path / "real"
    (root / "a").mkdir(parents=True)
    (root / "a" / "1.png").write_bytes(b"x")
    (tmp_path / "link").symlink_to(root)
    path = tmp_path / "list.txt"
    for written in (root, tmp_path / "link"):
        path.write_text(f"{written}/a/1.png 0\n")
        for place in (root, tmp_path / "link"):
            assert read_list(path, place)["path"].tolist() == ["a/1.png"]
    for line in (f"{tmp_path}/elsewhere/1.png 0", f"{root}/../real/a/1.png 0", f"{root} 0"):
        path.write_text(f"{line}\n")
        with pytest.raises(DataError, match="absolute path|leads out"):
            read_list(path, root)
    path.write_text(f"{root}/a/1.png 0\n")
    with pytest.raises(DataError, match="absolute path .* write it relative"):
        read_list(path)


@pytest.mark.parametrize(
    ("spelt", "words"),
    [
        (lambda name: name.replace("/", "\\"), r"with / for \\ 4 of 4 missing files"),
        (lambda name: f"root/{name}", "without the leading root/ 4 of 4"),
        (lambda name: f"old/{name}", "without the leading old/ 4 of 4 .*sed -i 's#.old/##'"),
        (lambda name: f"old\\{name}".replace("/", "\\"), r"with / for \\ without the leading old/"),
        (lambda name: name.partition("/")[2], "below x/ 2 of 4"),
        (lambda name: name.removesuffix(".png"), "with .png added 4 of 4"),
        (lambda name: f"nowhere/{name}x", None),
    ],
)
def test_a_refusal_of_missing_files_says_what_would_find_them(tmp_path, spelt, words):
    root = tmp_path / "root"
    names = ["x/1.png", "x/2.png", "y/3.png", "y/4.png"]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    path = root / "train_list.txt"
    path.write_text("".join(f"{spelt(name)} 0\n" for name in names))
    with pytest.raises(DataError, match="4 of 4 files cannot be used") as caught:
        read_list(path, root)
    said = str(caught.value)
    if words is None:
        assert said.endswith("; restore the files or remove the lines")
    else:
        assert re.search(words, said), said


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"cat\ndog\nred panda\n", ["cat", "dog", "red panda"]),
        (b"\xef\xbb\xbfcat\r\ndog\r\n\r\n", ["cat", "dog"]),
        (b"0\tcat\n1\tdog\n", ["cat", "dog"]),
        (b"1\n0\n", ["1", "0"]),
        (b"1 b\n0 a\n", ["a", "b"]),
    ],
)
def test_a_class_map_may_be_one_name_per_line(tmp_path, content, names):
    (tmp_path / "labels.txt").write_bytes(content)
    assert read_class_map(tmp_path / "labels.txt") == names
