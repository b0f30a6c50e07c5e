"""Stored answers of a teacher: of every image V seeded views, of every view the K best classes.

A folder holds ``shards/shard=00000.npy`` (records [V, images], view-major, so that an epoch, which
shows one view of each image, reads one stretch of each shard), a manifest beside each,
``images.parquet`` (which images, in the order of the records) and ``store.json``, written last: how
the records were made. View v of an image is its augmentation with the generator keyed by
(seed, v, key): with the seed of the store the loader shows the same pixels again, so no pixels are
stored. The idea is FKD's (2112.01528) and TinyViT's (2207.10666).

A record takes 4 K + 4 bytes (44 at K = 10; 2 K more above 65,536 classes, and where all classes
are kept). It holds logits less
their log-sum-exp, that is logarithms of probabilities: near 0, where float16 is finest, for the
classes that matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import PIL
from PIL import features

from hgnetv2_pipeline.data.decode import DECODING, Decoding
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.sample_rng import keyed_rng
from hgnetv2_pipeline.differences import differences
from hgnetv2_pipeline.durable import read_json, sha256_file, sha256_json, write_aside, write_json
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.input.augment import Augment, View, begin
from hgnetv2_pipeline.input.jpeg import optional
from hgnetv2_pipeline.input.lazy_image import LazyImage
from hgnetv2_pipeline.shards import ShardStore, shard_slices

if TYPE_CHECKING:
    import pyarrow as pa

Records = npt.NDArray[np.void]

FORMAT = "hgnetv2_pipeline/teacher_logits/1"
STORE, IMAGES, SHARDS = "store.json", "images.parquet", "shards"
REMEDY = (
    "make them again (--params redo=teacher_logits), or let the teacher run along "
    "(--params teacher_logits.source=online)"
)
_READ = ("background", "depth")
# By these an image is known again, wherever its file is.
_IMAGE = ["key", "length", "bytes_sha256"]


def record_dtype(classes: int, topk: int) -> np.dtype[np.void]:
    """One record: ``ids`` [K] of the best classes, best first, ``logps`` [K] and ``lse`` float32.

    ``logps`` are float16, and float32 where all classes are kept. ``logps + lse`` are the logits
    and ``exp(logps)`` the probabilities. A record whose ``lse`` is NaN stands for an image that
    could not be read.
    """
    ids = "<u2" if classes <= 1 << 16 else "<i4"
    # Who keeps all classes of a few wants nothing lost: training amplifies rounding.
    logps = "<f2" if topk < classes else "<f4"
    return np.dtype([("ids", ids, (topk,)), ("logps", logps, (topk,)), ("lse", "<f4")])


def describe_view(
    view: Augment, *, resized: int | None, decoding: Decoding = DECODING
) -> dict[str, Any]:
    """A training view as plain values; another description means other pixels.

    ``resized`` is the short side of the copy that images are read from, None for the originals;
    ``decoding`` how they are decoded.
    """
    values: dict[str, Any] = asdict(view)  # type: ignore[call-overload]
    # Stores that were made before there were backgrounds and depths do not speak of them; the
    # evaluation view that some views start from cuts pixels that are decoded already.
    base = values.get("base", {})
    for name in _READ:
        base.pop(name, None)
    for part in (values, base):
        if part.get("fit") == "crop":  # nor of a fit those made before one could choose
            del part["fit"], part["pad_colour"]
    if values.get("further", ...) is None:  # nor of what a view does besides
        del values["further"]
    read = Preprocess().reading(decoding).to_dict()
    said: dict[str, Any] = {name: read[name] for name in _READ if name in read}
    return {"name": type(view).__name__, **values, "resized": resized, **said}


def decode_versions(view: Augment) -> dict[str, str]:
    """Versions of what turns files into the pixels of ``view``: they round differently."""
    libjpeg = features.version("libjpeg_turbo") or features.version("jpg")
    found = {"Pillow": PIL.__version__, "libjpeg": str(libjpeg)}
    fast = optional("simplejpeg")
    if fast is not None:
        found["simplejpeg"] = str(fast.__version__)
    cv2 = optional("cv2")
    if cv2 is not None and (fast is None or getattr(view, "fast", False)):
        found["OpenCV"] = str(cv2.__version__)
    return found


class TeacherLogits:
    """A finished store, opened for reading. Travels to worker processes, which open it again.

    Attributes:
        made: how the records were made (``store.json``).
        views: V, numbered from 0.
        seed: of the views.
    """

    def __init__(self, folder: Path) -> None:
        """Open the store in ``folder``.

        Raises:
            DataError: it is not finished, or a shard is missing or cut short.
        """
        self.folder = Path(folder)
        if not (self.folder / STORE).is_file():
            raise DataError(
                f"{self.folder} holds no finished teacher logits: kedro run --pipeline ssld_stage1 "
                "--params teacher_logits.source=stored makes them"
            )
        self.made: dict[str, Any] = read_json(self.folder / STORE)
        self.views, self.seed = int(self.made["views"]), int(self.made["seed"])
        self.classes, self.topk = int(self.made["classes"]["number"]), int(self.made["topk"])
        self._opened: dict[int, Records] = {}
        for number, shard in enumerate(self.made["shards"]):
            path = logit_shards(self.folder).path(number)
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                raise DataError(f"{path} is missing or cut short; {REMEDY}")

    def __getstate__(self) -> dict[str, Any]:
        # NumPy would send a memory map as a copy of everything in it.
        return {**self.__dict__, "_opened": {}}

    def verify(self) -> None:
        """Read every shard; DataError for one whose bytes are not those that were written."""
        for number, shard in enumerate(self.made["shards"]):
            path = logit_shards(self.folder).path(number)
            if sha256_file(path) != shard["sha256"]:
                raise DataError(f"{path} was changed since it was made; {REMEDY}")

    def find(self, samples: pd.DataFrame) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """int64 [n]: the place of each sample in the store, -1 where it is not there; and bool [n]:
        whether the file there had other bytes."""
        import pyarrow as pa
        import pyarrow.compute as pc

        text = pa.large_string()
        at = pc.index_in(pa.array(samples["key"], text), value_set=self._stored("key").cast(text))
        rows: npt.NDArray[np.int64] = at.fill_null(-1).to_numpy().astype(np.int64)
        at = at.fill_null(0)
        there, here = self._stored("bytes_sha256").cast(text).take(at), samples["bytes_sha256"]
        here = pa.array(here, text)
        hashed = pc.and_(pc.not_equal(there, ""), pc.not_equal(here, ""))
        other = pc.and_(hashed, pc.not_equal(there, here)).to_numpy()
        lengths = self._stored("length").to_numpy()[at.to_numpy()]
        return rows, (other | (lengths != samples["length"].to_numpy())) & (rows >= 0)

    def _stored(self, column: str) -> pa.ChunkedArray:
        """A column of the images; of millions one at a time is held."""
        import pyarrow.parquet as pq

        return pq.ParquetFile(self.folder / IMAGES).read([column])[column]

    def rows_of(self, samples: pd.DataFrame) -> npt.NDArray[np.int64]:
        """int64 [n]: the place of each sample in the store, which may hold more images.

        Raises:
            DataError: an image is not in it, or has other bytes than the one that was answered.
        """
        rows, other = self.find(samples)
        missing = samples["key"][rows < 0]
        if len(missing):
            raise DataError(
                f"{self.folder}: {len(missing):,} of {len(samples):,} images have no stored "
                f"answers, the first is {missing.iloc[0]}: the list is another; {REMEDY}"
            )
        if other.any():
            raise DataError(
                f"{self.folder}: {int(other.sum()):,} images are not the files that the teacher "
                f"saw, the first is {samples['key'][other].iloc[0]}; {REMEDY}"
            )
        return rows

    def answers_to(self, row: int) -> Records:
        """The records [V] of the image in place ``row``."""
        number, place = divmod(row, int(self.made["shard_images"]))
        if number not in self._opened:
            path = logit_shards(self.folder).path(number)
            self._opened[number] = np.load(path, mmap_mode="r", allow_pickle=False)
        return self._opened[number][:, place]

    def read(self, row: int, view: int) -> Records:
        """The record of one view of the image in place ``row``, as an array of no dimensions."""
        return np.asarray(self.answers_to(row)[view])

    def differs_from(self, wanted: Mapping[str, Any]) -> list[str]:
        """Where ``made`` is not as ``wanted`` says: ``decode.Pillow '12.0.0' -> '13.0.0'``, ..."""
        return differences({name: self.made.get(name) for name in wanted}, wanted)

    def refuse_others(self, wanted: Mapping[str, Any]) -> None:
        """Raise DataError where ``made`` is not as ``wanted`` says, naming both."""
        apart = self.differs_from(wanted)
        if apart:
            raise DataError(
                f"{self.folder} does not fit this run, stored -> now: {'; '.join(apart)}; restore "
                f"what was, or {REMEDY}"
            )


@dataclass(frozen=True)
class ReplayedView:
    """A training view that is shown again as the teacher saw it, with the teacher's answer.

    Epoch e of a run shows view e mod V. ``rows`` [n] are the places of the run's samples in the
    store. With ``clean`` the store has one answer per image, as evaluation shows it, which goes
    with whatever training view is drawn (``draw``), as in Noisy Student (1911.04252).
    """

    view: Augment
    store: TeacherLogits
    rows: npt.NDArray[np.int64]
    clean: bool = False

    def begin(
        self, picture: LazyImage, key: str, row: int, number: int
    ) -> tuple[Callable[[], View], Records]:
        """What makes the pixels of view ``number`` of the sample ``row`` of the run; its record.

        Raises:
            DataError: the image could not be read when the teacher saw it; and as ``LazyImage``.
        """
        rng = keyed_rng(self.store.seed, number, key)
        return begin(self.view, picture, rng), self.answer(row, number)

    def draw(
        self, picture: LazyImage, row: int, rng: np.random.Generator
    ) -> tuple[Callable[[], View], Records]:
        """What makes the pixels of a view that ``rng`` draws, and the one record of the image.

        Raises what ``begin`` raises.
        """
        return begin(self.view, picture, rng), self.answer(row, 0)

    def answer(self, row: int, number: int) -> Records:
        """The record of view ``number`` of the sample ``row``; DataError where there is none."""
        record = self.store.read(int(self.rows[row]), number)
        if np.isnan(record["lse"]):
            raise DataError("the teacher has no stored answer: it could not read the image")
        return record


def logit_shards(folder: Path) -> ShardStore:
    """The shards of the store in ``folder``. They are in a folder of their own, which is hashed."""
    return ShardStore(folder / SHARDS, ".npy", "identity", "sha256", _is_readable)


def _is_readable(manifest: Mapping[str, Any], size: int) -> bool:
    """Whether all is there that the pass and ``seal_store`` ask for."""
    _ = manifest["images"], manifest["quarantined"]
    return True


def shard_identity(made: Mapping[str, Any], images: pd.DataFrame) -> str:
    """What a shard follows from: how records are made, and the images in their order."""
    rows = images[_IMAGE].itertuples(index=False, name=None)
    return sha256_json([FORMAT, made, [[str(value) for value in row] for row in rows]])


def write_records(
    folder: Path,
    number: int,
    records: Records,
    identity: str,
    quarantined: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """Write records [V, images] as shard ``number``; returns its manifest."""

    def save(path: Path) -> dict[str, Any]:
        with path.open("wb") as file:
            np.save(file, records, allow_pickle=False)
        bad = [list(entry) for entry in quarantined]
        return {"images": records.shape[1], "quarantined": bad}

    return logit_shards(folder).write(number, identity, save)


def seal_store(
    folder: Path, images: pd.DataFrame, made: Mapping[str, Any], shard_images: int
) -> None:
    """Make a store of the shards of ``images``, all of which must be there, by ``store.json``.

    Raises:
        DataError: shards are missing (another process has not finished its share).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    store = logit_shards(folder)
    slices = shard_slices(len(images), shard_images)
    wanted = {n: shard_identity(made, images.iloc[part]) for n, part in slices.items()}
    done = store.all_finished(wanted)
    missing = [number for number in slices if number not in done]
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of {len(slices)} shards of teacher logits are not made yet, "
            f"the first is {missing[0]}; run it again, what is finished stays"
        )
    store.sweep(len(slices), alone=True)
    schema = pa.schema(
        [("key", pa.string()), ("length", pa.int64()), ("bytes_sha256", pa.string())]
    )
    table = pa.Table.from_pandas(images[_IMAGE], schema=schema, preserve_index=False)
    with write_aside(folder / IMAGES) as aside:
        pq.write_table(table.replace_schema_metadata(None), aside, compression="zstd")
    shards = [
        {
            "images": manifest["images"],
            "sha256": manifest["sha256"],
            "bytes": store.path(number).stat().st_size,
        }
        for number, manifest in done.items()
    ]
    counts = {"images": len(images), "shard_images": shard_images, "shards": shards}
    write_json(folder / STORE, {"format": FORMAT, **made, **counts})
