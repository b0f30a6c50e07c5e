"""The ledger of a run: every image that was listed is used, quarantined or refused."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from hgnetv2_pipeline.durable import write_text
from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.printable import csv_line, csv_value

COLUMNS = ["key", "reason", "line"]


class Ledger:
    """Counts what happened to the images of a list.

    *Quarantined* are images that cannot be used (unreadable, missing, cut short); too many of them
    stop the run. *Refused* are images left out on purpose (a duplicate, a class too small).
    Always: listed = used + quarantined + refused.

    Args:
        listed: number of images listed.
        max_bad: share of them, 0 to 1, that may be quarantined before ``check`` raises.
    """

    def __init__(self, listed: int, max_bad: float) -> None:
        if not 0 <= max_bad <= 1:
            raise ParameterError(f"max_bad {max_bad}: a share from 0 to 1 is needed (data.max_bad)")
        self.listed, self.max_bad = listed, max_bad
        self._quarantined: dict[str, tuple[str, int | None]] = {}
        self._refused: dict[str, tuple[str, int | None]] = {}

    def quarantine(self, key: str, reason: str, line: int | None = None) -> None:
        """Record an image that cannot be used; the same key counts once."""
        if key not in self._refused:
            self._quarantined.setdefault(key, (reason, line))

    def refuse(self, key: str, reason: str, line: int | None = None) -> None:
        """Record an image that is left out on purpose; the same key counts once."""
        if key not in self._quarantined:
            self._refused.setdefault(key, (reason, line))

    @property
    def allowed(self) -> int:
        """How many images may be quarantined before ``check`` raises."""
        # The tiny addition keeps 0.001 * 3000 = 3 from being floored to 2.
        return int(self.max_bad * self.listed + 1e-9)

    def __contains__(self, key: str) -> bool:
        return key in self._quarantined or key in self._refused

    def check(self, setting: str = "max_bad") -> None:
        """Raise DataError if more images are quarantined than ``max_bad`` allows.

        ``setting`` is what the user would change to allow more.
        """
        count = len(self._quarantined)
        if count <= self.allowed:
            return
        first = "; ".join(
            f"{key}: {reason}" for key, (reason, _) in list(self._quarantined.items())[:3]
        )
        raise DataError(
            f"{count:,} of {self.listed:,} images cannot be used, {self.allowed:,} may "
            f"(max_bad {self.max_bad:g}): {first}{' ...' if count > 3 else ''}; "
            f"repair or remove them, or raise {setting}"
        )

    def summary(self) -> dict[str, int]:
        """n_listed, n_used, n_quarantined, n_refused; the last three add up to the first."""
        bad, refused = len(self._quarantined), len(self._refused)
        used = self.listed - bad - refused
        if used < 0:
            raise DataError(
                f"{bad} images quarantined and {refused} refused, but only {self.listed} listed; "
                "the ledger belongs to another list"
            )
        return {
            "n_listed": self.listed,
            "n_used": used,
            "n_quarantined": bad,
            "n_refused": refused,
        }

    def frame(self) -> pd.DataFrame:
        """What was left out: columns key, reason, line (nullable), sorted by key."""
        rows = sorted(
            (key, reason, line)
            for part in (self._quarantined, self._refused)
            for key, (reason, line) in part.items()
        )
        return quarantine_frame(rows)

    def write(self, path: Path) -> Path:
        """Write ``frame`` as CSV, whole or not at all."""
        return write_quarantine(path, self.frame())


def quarantine_frame(rows: list[tuple[str, str, int | None]]) -> pd.DataFrame:
    """Columns key (str), reason (str), line (Int64, NA if there is no list)."""
    return pd.DataFrame(
        {
            "key": pd.Series([row[0] for row in rows], dtype="str"),
            "reason": pd.Series([row[1] for row in rows], dtype="str"),
            "line": pd.Series([row[2] for row in rows], dtype="Int64"),
        }
    )


def write_quarantine(path: Path, frame: pd.DataFrame) -> Path:
    """Write columns key, reason, line as CSV (UTF-8, \\n), its cells by ``csv_cell``."""
    rows = [csv_line(COLUMNS)]
    for key, reason, line in frame[COLUMNS].itertuples(index=False):
        rows.append(csv_line([key, reason, "" if pd.isna(line) else int(line)]))
    return write_text(path, "".join(f"{row}\n" for row in rows))


def read_quarantine(path: Path) -> pd.DataFrame:
    """What ``write_quarantine`` wrote: columns key, reason, line."""
    kinds = {"key": "str", "reason": "str", "line": "Int64"}
    frame = pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values={"line": [""]})
    texts = {name: frame[name].map(csv_value).astype("str") for name in ("key", "reason")}
    return frame.assign(**texts)[COLUMNS]
