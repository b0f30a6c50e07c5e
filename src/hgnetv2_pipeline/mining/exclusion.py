"""Lists of images that are not to be mined, whoever made them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.mining.score_shards import score_prefixes
from hgnetv2_pipeline.mining.scored_pool import ScoredPool

_log = logging.getLogger(__name__)


def read_exclusions(files: Sequence[Path], scores: Path | Sequence[Path]) -> pd.Series[str]:
    """The keys of scored images that list files name, ascending.

    A line is a key (as in the pool's list) or a path below a source of the pool; a label behind it
    is passed over, and so are blank lines, comments (#) and images the pool does not have.

    Raises DataError when a file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if not files:
        return pd.Series([], dtype="str")
    names = []
    for file in files:
        try:
            lines = pa.array(file.read_text(encoding="utf-8-sig").splitlines(), pa.large_string())
        except (OSError, ValueError) as error:
            raise DataError(f"mining.exclude: {file} cannot be read ({error})") from error
        lines = lines.filter(pc.invert(pc.match_substring_regex(lines, r"^\s*(#|$)")))
        bare = pc.replace_substring_regex(lines, r" [0-9]+$", "")
        for prefix in {"", *score_prefixes(scores)}:
            before = pa.scalar(prefix, pa.large_string())
            for some in (lines, bare):
                empty = pa.scalar("", pa.large_string())
                names.append(pc.binary_join_element_wise(before, some, empty))
    pool = ScoredPool(scores)
    asked = pd.Series(pa.concat_arrays(names).to_pandas(), dtype="str")
    found = pool.keys(pool.holding(asked)).to_pandas()
    _log.info("mining.exclude: %d images of the pool are named and left out", len(found))
    return pd.Series(found, dtype="str")
