"""What the catalog checks of the lists each time a node hands them over or takes them."""

from __future__ import annotations

from pathlib import Path


class ListsValidator:
    """The labelled lists are well formed, fit their class map and index, and share no image.

    Named in the catalog (``validator:``). Lists that were not touched since this process checked
    them are not read again. The pool's list, which may have millions of lines and no labels that
    count, is not read.

    Raises DataError, which Kedro wraps in its own error: exit code 3.
    """

    def __init__(self) -> None:
        self._passed: dict[Path, tuple[tuple[str, int, int], ...]] = {}

    def validate(self, data: Path) -> Path:
        """Check the folder of lists ``data``; nothing is checked before it is made."""
        from hgnetv2_pipeline.data.lists.check import check_lists

        folder = Path(data)
        stamps = tuple(
            (path.name, path.stat().st_size, path.stat().st_mtime_ns)
            for path in sorted(folder.glob("*_list.txt"))
        )
        if stamps and self._passed.get(folder) != stamps:
            check_lists(folder)
            self._passed[folder] = stamps
        return data
