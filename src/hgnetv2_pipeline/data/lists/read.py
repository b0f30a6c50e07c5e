"""Lists of images, ``path label`` a line: read strictly and written.

The format is PaddleClas's. A line is split once at its last space, so paths may contain spaces;
where no line is so, at the last TAB, comma or ``|``, whichever fits all lines (``data.delimiter``).
CRLF line ends and a byte order mark are accepted; blank lines and lines that start with ``#`` are
skipped (write ``./#name`` for a file whose name starts so). Everything doubtful is refused with the
line's number and a remedy: nothing is guessed, relabelled or dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hgnetv2_pipeline.data.lists.duplicates import drop_repeats
from hgnetv2_pipeline.data.lists.files import refuse_unusable
from hgnetv2_pipeline.data.lists.kinds import delimiter_of, kind_of_list
from hgnetv2_pipeline.data.lists.syntax import ParsedList, parse_list, spell_name
from hgnetv2_pipeline.durable import write_aside
from hgnetv2_pipeline.errors import DataError, ParameterError

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)

_ROWS = 131_072
_LONG = 4_000
# Names that need a second look before they go into a list; the others can as they are.
_ODD = r"^[#./ ]|[\x00-\x1f\x7f]|[^\x00-\x7f]|//|/\.| $| [0-9]+$|/$|\\"


def read_list(
    path: Path,
    root: Path | None = None,
    num_classes: int | None = None,
    *,
    labelled: bool = True,
    multi_label: bool = False,
    duplicates: str = "refuse",
    every_class: bool = False,
    trusted_roots: Sequence[Path] = (),
    missing_to: Path | None = None,
    delimiter: str = "auto",
) -> pd.DataFrame:
    """Read a list of images.

    Args:
        path: the list file.
        root: if given, every file must exist there, be a regular file (or a member of a tar,
            ``archive.tar!member``) and are inside it.
        num_classes: if given, labels must be below it.
        labelled: False for a list of paths alone (a pool); labels are then NA.
        multi_label: True for lines ``path<TAB>0,1,0``, a 0 or 1 for every class.
        duplicates: what to do with a path listed twice with one label: ``refuse`` or ``drop``.
            Two labels for one path are always refused.
        every_class: refuse a list in which a class 0..num_classes-1 has no image (without
            ``num_classes``: 0..highest label).
        trusted_roots: folders outside ``root`` into which symbolic links may lead.
        missing_to: where to write all unusable files (CSV: key, reason, line) before raising.
        delimiter: between path and label: a name of ``syntax.DELIMITERS``, one character, or auto.

    Returns:
        DataFrame [path (str), label (Int64)], in the order of the list; if ``multi_label``
        [path (str), labels (Arrow list of uint8 [classes])], see ``multilabel.label_matrix``.

    Raises:
        DataError: with file, line number and remedy.
    """
    if multi_label:
        from hgnetv2_pipeline.data.lists.multi_label import read_multi_label_list

        if not labelled:
            raise ParameterError("multi_label and labelled=False: a list has labels or has none")
        return read_multi_label_list(
            path, root, num_classes, duplicates=duplicates, every_class=every_class,
            trusted_roots=trusted_roots, missing_to=missing_to, delimiter=delimiter,
        )  # fmt: skip
    parsed = read_parsed_list(
        path,
        root,
        num_classes,
        duplicates=duplicates,
        every_class=every_class,
        trusted_roots=trusted_roots,
        missing_to=missing_to,
        delimiter=delimiter if labelled else None,
    )
    return list_frame(parsed, labelled)


def read_parsed_list(
    path: Path,
    root: Path | None,
    num_classes: int | None,
    *,
    duplicates: str,
    every_class: bool,
    trusted_roots: Sequence[Path],
    missing_to: Path | None,
    delimiter: str | None,
) -> ParsedList:
    """As ``read_list``, with the line numbers. ``delimiter`` None: the list has no labels."""
    path, labelled = Path(path), delimiter is not None
    mark = None if delimiter is None else delimiter_of(delimiter)
    parsed = _parse_as_it_is(path, labelled, mark, root)
    if len(parsed.labels) == 0:
        form = "'path label'" if labelled else "'path'"
        raise DataError(f"{path}: 0 samples; write one {form} per line")
    if labelled:
        check_labels(path, parsed, num_classes, every_class)
    parsed = drop_repeats(path, parsed, duplicates)
    if root is not None:
        refuse_unusable(path, parsed, root, trusted_roots, missing_to)
    return parsed


def _parse_as_it_is(
    path: Path, labelled: bool, delimiter: bytes | None, root: Path | None
) -> ParsedList:
    """The lines of a list; of those that are no 'path label', by the delimiter of all of them."""
    try:
        return parse_list(path, labelled=labelled, delimiter=delimiter or b" ", root=root)
    except DataError:
        if delimiter is not None or not labelled:
            raise
        kind = kind_of_list(path)
        if kind is None or kind.several or kind.delimiter == b" ":
            raise
    _log.info("%s: %s", path, kind)
    return parse_list(path, delimiter=kind.delimiter, root=root)


def check_labels(
    path: Path, parsed: ParsedList, num_classes: int | None, every_class: bool
) -> None:
    """Refuse labels that are no classes, and with ``every_class`` classes without an image."""
    if num_classes is not None:
        above = np.flatnonzero(parsed.labels >= num_classes)
        if len(above):
            line, label = parsed.lines[above[0]], parsed.labels[above[0]]
            raise DataError(
                f"{path}:{line}: label {label} is outside the {num_classes} classes "
                f"0-{num_classes - 1} ({len(above):,} such lines): correct it, or the class names "
                "(data.lists.class_map)"
            )
    if every_class:
        wanted = num_classes if num_classes is not None else int(parsed.labels.max()) + 1
        absent = np.setdiff1d(np.arange(wanted), parsed.labels)
        if len(absent):
            some = ", ".join(str(label) for label in absent[:5])
            raise DataError(
                f"{path}: {len(absent):,} of {wanted:,} classes have no image: "
                f"{some}{' ...' if len(absent) > 5 else ''}{_why_absent(absent, wanted)}"
            )


def _why_absent(absent: np.ndarray, wanted: int) -> str:
    if absent.tolist() == [0] and wanted > 1:
        return "; the labels begin at 1: subtract 1 from each"
    return (
        "; number the classes from 0 without a gap, as many as there are class names "
        "(data.lists.class_map)"
    )


def list_frame(parsed: ParsedList, labelled: bool) -> pd.DataFrame:
    """Columns path and label (NA throughout if not ``labelled``)."""
    unknown = np.full(len(parsed.labels), not labelled)
    labels = pd.arrays.IntegerArray(parsed.labels.astype(np.int64), unknown)
    return pd.DataFrame({"path": parsed.paths.to_pandas().astype("str"), "label": labels})


def write_list(path: Path, frame: pd.DataFrame) -> Path:
    """Write ``path label`` a line (``path`` alone if no image has a label), whole or not at all.

    Args:
        frame: columns ``key`` or ``path`` (the key wins: it names members of archives), ``label``.

    Raises:
        DataError: a path cannot be in a list, or only some images have a label.
    """
    names = frame["key"] if "key" in frame.columns else frame["path"]
    unknown = frame["label"].isna()
    if unknown.any() and not unknown.all():
        raise DataError(
            f"{path}: {int(unknown.sum()):,} of {len(frame):,} images have no label; a list has "
            "labels for all of them or for none"
        )
    import pyarrow as pa

    with list_writer(path) as add_lines:
        for first in range(0, len(frame), _ROWS):
            rows = slice(first, first + _ROWS)
            labels = None if unknown.any() else pa.array(frame["label"].iloc[rows])
            add_lines(pa.array(names.iloc[rows], pa.large_string()), labels)
    return Path(path)


@contextmanager
def list_writer(path: Path) -> Iterator[Callable[[pa.Array, pa.Array | None], None]]:
    """Yields what adds names with their labels to a list, which is written whole or not at all.

    It takes arrays (or chunked ones), None where a list has no labels; DataError if a name cannot
    be in a list.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pa.large_string()
    with write_aside(path) as aside, aside.open("wb") as file:

        def write(names: pa.Array, labels: pa.Array | None) -> None:
            long = pc.greater(pc.binary_length(names), _LONG)
            odd = pc.or_(pc.match_substring_regex(names, _ODD), long).to_numpy(zero_copy_only=False)
            if odd.any():
                spelt = names.to_pylist()
                for row in np.flatnonzero(odd):
                    spelt[row] = spell_name(path, spelt[row])
                names = pa.array(spelt, pa.string())
            nothing, end = pa.scalar("", text), pa.scalar("\n", text)
            parts = [pc.cast(names, text), end]
            if labels is not None:
                parts[1:1] = [pa.scalar(" ", text), pc.cast(labels, text)]
            lines = pc.binary_join_element_wise(*parts, nothing)
            for chunk in lines.chunks if isinstance(lines, pa.ChunkedArray) else [lines]:
                # The texts of an array follow one another in memory, as they do in a file.
                stops = np.frombuffer(chunk.buffers()[1], np.int64)[chunk.offset :]
                first, end = int(stops[0]), int(stops[len(chunk)])
                file.write(memoryview(chunk.buffers()[2])[first:end])

        yield write
