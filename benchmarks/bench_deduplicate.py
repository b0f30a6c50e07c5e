"""De-duplication measured on planted copies: what is found, what is lost with it, what it costs.

    python benchmarks/bench_deduplicate.py            # as in docs/results/deduplication.md
    python benchmarks/bench_deduplicate.py --seeds 0  # one set only
    python benchmarks/bench_deduplicate.py --seeds --hashes 1000000
    python benchmarks/bench_deduplicate.py --weights data/06_models/sample --teacher SPEC ...

The set: disjoint 80-pixel tiles of scikit-learn's two photographs and matplotlib's portrait, shown
at 256 pixels. Half of them are val; every edit of each of those, and the other half untouched, is
the pool. Many tiles are sky or blur, so that the set is hard on purpose. The hashes are random
ones, against which nothing may be removed.
"""

from __future__ import annotations

import argparse
import functools
import io
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from harness import in_own_process, machine, table, versions
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from hgnetv2_pipeline.data import decode, perceptual
from hgnetv2_pipeline.data.index import read_bytes
from hgnetv2_pipeline.data.scan import folders

SIDE = 256
TILE = 80
# What was chosen on which seed and edits stands in docs/results/deduplication.md.
Edit = Callable[[Image.Image, np.random.Generator], Image.Image]


def photographs() -> dict[str, np.ndarray]:
    """The photographs that come with installed packages, uint8 [H, W, 3]."""
    from matplotlib.cbook import get_sample_data
    from sklearn.datasets import load_sample_images

    found = dict(zip(("china", "flower"), load_sample_images().images, strict=True))
    with get_sample_data("grace_hopper.jpg") as file:
        found["portrait"] = np.asarray(Image.open(file).convert("RGB"))
    return found


def tiles(side: int = TILE, only: Sequence[str] = ()) -> Iterator[tuple[str, Image.Image]]:
    """Disjoint tiles of ``side`` pixels with their names (``china-003``), shown at 256 pixels."""
    for name, photograph in photographs().items():
        if only and name not in only:
            continue
        rows, columns = photograph.shape[0] // side, photograph.shape[1] // side
        for number in range(rows * columns):
            top, left = side * (number // columns), side * (number % columns)
            tile = Image.fromarray(photograph[top : top + side, left : left + side])
            yield f"{name}-{number:03d}", tile.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def crop(image: Image.Image, share: float, x: float = 0.5, y: float = 0.5) -> Image.Image:
    side = image.width * share
    left, top = (image.width - side) * x, (image.height - side) * y
    return image.crop((round(left), round(top), round(left + side), round(top + side)))


def frame(image: Image.Image, pixels: int, grey: int) -> Image.Image:
    side = image.width + 2 * pixels
    out = Image.new("RGB", (side, side), (grey, grey, grey))
    out.paste(image, (pixels, pixels))
    return out.resize(image.size, Image.Resampling.BICUBIC)


def written(image: Image.Image, text: str, *, at: tuple[int, int], size: int) -> Image.Image:
    out = image.copy()
    ImageDraw.Draw(out).text(at, text, fill=(255, 255, 255), font_size=size)
    return out


def gamma(image: Image.Image, power: float) -> Image.Image:
    return image.point(lambda value: round(255 * (value / 255) ** power))


def watermark(image: Image.Image) -> Image.Image:
    """Large half-transparent words across the picture, as stock photographs carry them."""
    veil = Image.new("L", image.size, 0)
    draw = ImageDraw.Draw(veil)
    for top in range(-20, image.height, 70):
        draw.text((8, top), "SAMPLE PHOTO", fill=110, font_size=34)
    veil = veil.rotate(25, Image.Resampling.BICUBIC)
    return Image.composite(Image.new("RGB", image.size, "white"), image, veil)


def perspective(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """As photographed from one side: each corner moves inwards by up to 12 % of a side."""
    import cv2

    last = image.width - 1.0
    corners = np.array([[0, 0], [last, 0], [last, last], [0, last]], np.float32)
    inwards = np.sign(last / 2 - corners) * rng.uniform(0, 0.12 * last, (4, 2))
    matrix = cv2.getPerspectiveTransform((corners + inwards).astype(np.float32), corners)
    return Image.fromarray(cv2.warpPerspective(np.asarray(image), matrix, image.size))


def colours(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Another white balance, saturation and contrast."""
    gains = rng.uniform(0.7, 1.3, 3)
    shifted = np.asarray(image, np.float64) * gains + rng.uniform(-20, 20, 3)
    out = Image.fromarray(shifted.clip(0, 255).astype(np.uint8))
    return ImageEnhance.Contrast(ImageEnhance.Color(out).enhance(1.6)).enhance(0.8)


def noisy(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    values = np.asarray(image, np.float64) + rng.normal(0, 12, (*image.size, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def banner(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A caption over the lowest 15 %, as in a screenshot of a news page."""
    del rng
    out = image.copy()
    top = round(0.85 * image.height)
    ImageDraw.Draw(out).rectangle((0, top, image.width, image.height), fill=(20, 20, 60))
    return written(out, "A caption about it", at=(10, top + 6), size=22)


@functools.cache
def filler() -> list[Image.Image]:
    """Other pictures to put beside one: all tiles, on their heads."""
    return [tile.transpose(Image.Transpose.ROTATE_180) for _, tile in tiles()]


def collage(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The picture on the left, another one on the right."""
    out = Image.new("RGB", (2 * image.width, image.height))
    out.paste(image, (0, 0))
    out.paste(filler()[rng.integers(len(filler()))], (image.width, 0))
    return out


FIXED: dict[str, Edit] = {
    "exact": lambda image, rng: image.copy(),
    "jpeg 40": lambda image, rng: jpeg(image, 40),
    "half size": lambda image, rng: image.resize((SIDE // 2,) * 2, Image.Resampling.BICUBIC),
    "brighter": lambda image, rng: image.point(lambda value: min(255, int(value * 1.25 + 10))),
    "crop 0.9": lambda image, rng: crop(image, 0.9),
    "crop 0.75": lambda image, rng: crop(image, 0.75),
    "mirror": lambda image, rng: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turn 8": lambda image, rng: image.rotate(8, Image.Resampling.BICUBIC),
    "grey": lambda image, rng: image.convert("L").convert("RGB"),
    "text and frame": lambda image, rng: frame(
        written(image, "sample 2024", at=(8, SIDE - 36), size=24), 16, 255
    ),
    "crop 0.8, jpeg 50": lambda image, rng: jpeg(crop(image, 0.8), 50),
}
RANDOM: dict[str, Edit] = {
    "crop": lambda image, rng: crop(image, rng.uniform(0.7, 0.95), *rng.uniform(size=2)),
    "turn": lambda image, rng: image.rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC),
    "frame": lambda image, rng: frame(image, int(rng.integers(4, 29)), int(rng.integers(256))),
    "crop, jpeg, gamma": lambda image, rng: gamma(
        jpeg(crop(image, rng.uniform(0.75, 0.95), *rng.uniform(size=2)), int(rng.integers(40, 81))),
        rng.uniform(0.7, 1.4),
    ),
}
HELD_OUT: dict[str, Edit] = {
    "perspective": perspective,
    "watermark": lambda image, rng: watermark(image),
    "colour shift": colours,
    "collage": collage,
    "squeezed": lambda image, rng: image.crop((0, 20, SIDE, SIDE - 20)).resize((SIDE, SIDE)),
    "blur": lambda image, rng: image.filter(ImageFilter.GaussianBlur(3)),
    "noise": noisy,
    "banner": banner,
    "wide": lambda image, rng: image.resize((SIDE * 4 // 3, SIDE), Image.Resampling.BICUBIC),
    "mirror, crop, jpeg 50": lambda image, rng: jpeg(
        crop(
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
            rng.uniform(0.75, 0.95),
            *rng.uniform(size=2),
        ),
        50,
    ),
    "crop 0.6": lambda image, rng: crop(image, 0.6, *rng.uniform(size=2)),
    "turn 20": lambda image, rng: image.rotate(20, Image.Resampling.BICUBIC),
    "upside down": lambda image, rng: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
}
KINDS = {"fixed": FIXED, "random": RANDOM, "held out": HELD_OUT}


@dataclass(frozen=True)
class Planted:
    """A planted set on disk: roots of val and pool; every pool key with its twin, kind and edit."""

    val: Path
    pool: Path
    plants: pd.DataFrame


def plant(
    home: Path,
    seed: int,
    *,
    kinds: Sequence[str] = tuple(KINDS),
    side: int = TILE,
    only: Sequence[str] = (),
    most: int | None = None,
) -> Planted:
    """Write half of the tiles as val, and their edits and the other half as the pool.

    ``most`` takes that many tiles for val and as many untouched ones, drawn by the seed.
    """
    rng = np.random.default_rng(seed)
    every = list(tiles(side, only))
    order = rng.permutation(len(every))
    rows = []
    for folder in ("val", "pool"):
        (home / folder).mkdir(parents=True)
    for number in sorted(order[::2][:most]):
        name, image = every[number]
        image.save(home / "val" / f"{name}.png")
        for kind in kinds:
            for edit, change in KINDS[kind].items():
                key = f"{name} {edit}.png".replace(" ", "_").replace(",", "")
                change(image, rng).save(home / "pool" / key)
                rows.append((key, f"{name}.png", kind, edit))
    for number in sorted(order[1::2][:most]):
        name, image = every[number]
        image.save(home / "pool" / f"{name}.png")
        rows.append((f"{name}.png", "", "clean", "clean"))
    return Planted(
        home / "val", home / "pool", pd.DataFrame(rows, columns=["key", "twin", "kind", "edit"])
    )


def scored(samples: pd.DataFrame, root: Path) -> pd.DataFrame:
    """What scoring writes of a pool, without a teacher."""
    hashes = [
        perceptual.phash64(decode.decode_image(read_bytes(row, root)))
        for _, row in samples.iterrows()
    ]
    return samples[["key", "bytes_sha256"]].assign(phash64=np.array(hashes, dtype=np.uint64))


def write_shards(out: Path, frames: Iterator[pd.DataFrame], listed: int, rows: int) -> Path:
    """Score shards of frames with key and whatever else there is of a score's columns.

    The rest is made up. Each frame is one shard, of ``rows`` rows but for the last one.
    """
    from hgnetv2_pipeline.mining.score_shards import write_plan, write_scores

    write_plan(out, listed, rows)
    for number, frame in enumerate(frames):
        n = len(frame)
        made_up = {
            "top_ids": [[0]] * n, "top_logits": [[0.0]] * n, "lse": [0.0] * n, "score_q": [0] * n,
            "phash64": [0] * n, "bytes_sha256": [""] * n,
        }  # fmt: skip
        manifest = {
            "number": number, "identity": {"inputs_sha256": "", "num_classes": 1}, "rows": n,
            "listed": n, "quarantined": [],
        }  # fmt: skip
        write_scores(out, number, {**made_up, **{c: frame[c].tolist() for c in frame}}, manifest)
    return out


def fates(
    planted: Planted,
    scores: Path | None = None,
    features: dict[str, Path] | None = None,
    **search: Any,
) -> pd.DataFrame:
    """Every pool image with its twin, kind and edit, and what de-duplication decided.

    ``scores``: of the pool, if a teacher has made them; ``features``: those of val.
    """
    from hgnetv2_pipeline.mining.duplicates.find import DuplicateSearch, deduplicate

    val = folders.scan_unlabelled(planted.val).samples
    pool = folders.scan_unlabelled(planted.pool).samples
    if scores is None:
        frame = scored(pool, planted.pool)
        scores = write_shards(planted.pool.parent / "scores", iter([frame]), len(frame), len(frame))
    found = deduplicate(
        scores,
        {"val": (val, planted.val)},
        pool=(pool, planted.pool),
        search=DuplicateSearch(**search),
        features=features,
    )
    fate = planted.plants.merge(found, on="key", how="left")
    fate["decision"] = fate["decision"].fillna("keep")
    fate["removed"] = fate["decision"] == "remove"
    fate["review"] = fate["decision"] == "review"
    fate["right"] = fate["twin"] == fate["val_key"]
    return fate


def with_features(
    planted: Planted, home: Path, teachers: Sequence[str], weights: Path
) -> dict[str, pd.DataFrame]:
    """``fates`` by hashes, by the teachers' features and by both.

    Those by features also tell what the pixels were asked about: ``compared``, some val tile was
    near enough; ``near``, the twin was among the nearest five.
    """
    from hgnetv2_pipeline.data.index import write_index
    from hgnetv2_pipeline.mining.duplicates.features import FeatureIndex, feature_pairs, features_of
    from hgnetv2_pipeline.mining.score import score_pool
    from hgnetv2_pipeline.mining.score_spec import ScoreSpec
    from hgnetv2_pipeline.mining.scored_pool import ScoredPool

    for name, root in (("val", planted.val), ("pool", planted.pool)):
        index = write_index(home / f"{name}.parquet", folders.scan_unlabelled(root).samples)
        score_pool(
            ScoreSpec(
                index=index, root=root, prefix="", teachers=list(teachers), num_classes=10,
                out=home / name, weights_root=weights, preprocess=None, shard_rows=65_536,
                batch_size=64, workers=0, features=True, dtype="float32", device="cpu",
                max_bad=0.01,
            )
        )  # fmt: skip
    features = {"val": home / "val"}
    fate = {
        " and ".join(channels): fates(
            planted, home / "pool", features, channels=("bytes", *channels)
        )
        for channels in (("phash",), ("features",), ("phash", "features"))
    }
    vals = folders.scan_unlabelled(planted.val).samples["key"]
    near = FeatureIndex(features_of(home / "val", vals))
    pairs = pd.concat(feature_pairs(ScoredPool(home / "pool"), near, 0.8, 5))
    known = set(zip(pairs["key"], vals.to_numpy()[pairs["position"]], strict=True))
    alone = fate["features"]
    alone["near"] = [pair in known for pair in zip(alone["key"], alone["twin"], strict=True)]
    alone["compared"] = alone["key"].isin(pairs["key"])
    return fate


def closest_negatives(planted: Planted, most: int = 4) -> pd.DataFrame:
    """Every clean tile against every val tile, each from its nearest view: the nearest pairs."""
    from hgnetv2_pipeline.mining.duplicates.compare import Thresholds, compare
    from hgnetv2_pipeline.mining.duplicates.grey_image import GreyImage
    from hgnetv2_pipeline.mining.duplicates.neighbours import hamming
    from hgnetv2_pipeline.mining.duplicates.views import view_hashes

    def grey(path: Path) -> np.ndarray:
        return np.asarray(Image.open(path).convert("L"))

    vals = sorted(planted.val.iterdir())
    hashes = np.stack([view_hashes(grey(path)) for path in vals])
    pictures = [GreyImage(grey(path)) for path in vals]
    rows = []
    for key in planted.plants.loc[planted.plants["kind"] == "clean", "key"]:
        with Image.open(planted.pool / key) as image:
            distances = hamming(hashes, np.uint64(perceptual.phash64(image)))
        picture = GreyImage(grey(planted.pool / key))
        for twin, apart in enumerate(distances):
            view = int(apart.argmin())
            found = compare(picture, pictures[twin], view, Thresholds())
            rows.append(
                (key, vals[twin].name, int(apart[view]), found.inliers, found.correlation,
                 found.high_pass)
            )  # fmt: skip
    columns = ["key", "val_key", "distance", "inliers", "correlation", "high_pass"]
    pairs = pd.DataFrame(rows, columns=columns)
    nearest = [
        pairs.sort_values(by, ascending=by == "distance", kind="stable").head(most)
        for by in ("distance", "inliers", "correlation")
    ]
    # The fine detail counts only where the correlation is nearly high enough.
    nearest.append(pairs[pairs["correlation"] >= 0.5].nlargest(most, "high_pass"))
    return pd.concat(nearest).drop_duplicates().reset_index(drop=True)


def random_hashes(count: int, most: int | None = None) -> dict[str, float]:
    """De-duplicate this many random hashes, in shards on disk, against the views of the tiles."""
    from hgnetv2_pipeline.mining.duplicates.find import DuplicateSearch, deduplicate
    from hgnetv2_pipeline.mining.duplicates.neighbours import expected_by_chance
    from hgnetv2_pipeline.mining.duplicates.views import VIEW_COUNT

    rng = np.random.default_rng(0)
    rows = 65_536

    def shards() -> Iterator[pd.DataFrame]:
        for first in range(0, count, rows):
            numbers = range(first, min(count, first + rows))
            yield pd.DataFrame(
                {
                    "key": [f"{i:08d}.jpg" for i in numbers],
                    "phash64": rng.integers(0, 2**64, len(numbers), dtype=np.uint64),
                    "bytes_sha256": [f"{i:064x}" for i in numbers],
                }
            )

    with tempfile.TemporaryDirectory() as folder:
        val = Path(folder) / "val"
        val.mkdir()
        for name, tile in itertools.islice(tiles(), most):
            tile.save(val / f"{name}.png")
        out = write_shards(Path(folder) / "scores", shards(), count, rows)
        samples = folders.scan_unlabelled(val).samples
        cpu = time.process_time()
        found = deduplicate(
            out, {"val": (samples, val)}, pool=(samples.head(0), val),
            search=DuplicateSearch(auto_max=4, verify_max=4),
        )  # fmt: skip
        cpu = time.process_time() - cpu
    entries = len(samples) * VIEW_COUNT
    return {
        "hashes": count,
        "entries": entries,
        "removed": int((found["decision"] == "remove").sum()),
        "expected": expected_by_chance(count, entries, 4),
        "CPU seconds": cpu,
    }


def by_edit(rows: pd.DataFrame, figures: Callable[[pd.DataFrame], pd.Series], name: str) -> str:
    """A table of ``figures`` of each kind of edit and each edit; ``name`` is a set's."""
    lines: list[list[object]] = []
    for kind, edits in KINDS.items():
        of_kind = rows[rows["kind"] == kind]
        parts = {f"**{kind}**": of_kind} | {e: of_kind[of_kind["edit"] == e] for e in edits}
        lines += [[edit, len(part), *figures(part)] for edit, part in parts.items()]
    return f"\n## {name}\n" + table([["edits", "planted", *figures(rows).index], *lines])


def percent(shares: pd.Series) -> pd.Series:
    return shares.map("{:.1%}".format)


def left_over(rows: pd.DataFrame) -> str:
    """What was taken by mistake or not decided."""
    clean, planted = (rows[(rows["kind"] == "clean") == flag] for flag in (True, False))
    return (
        f"twin right {planted[planted['removed']]['right'].mean():.1%} of "
        f"{planted['removed'].sum()}; clean tiles removed {clean['removed'].sum()} of "
        f"{len(clean)}, left to a person {clean['review'].sum()}; planted left to a person "
        f"{planted['review'].sum()}"
    )


def report(seed: int, side: int, views: int, *, negatives: bool) -> None:
    """Print the figures of one planted set."""

    def figures(rows: pd.DataFrame) -> pd.Series:
        right = rows[rows["removed"]]["right"].mean()
        shares = percent(pd.Series({"removed": rows["removed"].mean(), "twin right": right}))
        return pd.concat([shares, pd.Series({"review": rows["review"].sum()})])

    with tempfile.TemporaryDirectory() as folder:
        planted = plant(Path(folder), seed, side=side)
        cpu = time.process_time()
        fate = fates(planted, views=views)
        name = f"seed {seed}, tiles of {side} pixels, {views} views"
        print(by_edit(fate, figures, f"{name}; {time.process_time() - cpu:.1f} CPU-s"))
        print(left_over(fate))
        if negatives:
            print("\nnearest pairs of different tiles, all clean against all val:")
            print(closest_negatives(planted).round(3).to_string(index=False))


def report_features(seed: int, side: int, teachers: Sequence[str], weights: Path) -> None:
    """Print what the channel ``features`` finds beside and besides the hashes."""
    with tempfile.TemporaryDirectory() as folder:
        planted = plant(Path(folder) / "set", seed, side=side)
        fate = with_features(planted, Path(folder), teachers, weights)
    shares = fate["features"][["kind", "edit"]].assign(
        **{name: rows["removed"] for name, rows in fate.items()},
        **{"twin among the nearest 5": fate["features"]["near"]},
    )
    name = f"seed {seed}, tiles of {side} pixels, features of {' + '.join(teachers)}"
    print(by_edit(shares, lambda rows: percent(rows.iloc[:, 2:].mean()), name))
    for channels, rows in fate.items():
        print(f"{channels}: {left_over(rows)}")
    print(f"compared by features: {fate['features']['compared'].mean():.1%} of the pool")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3])
    parser.add_argument("--tile", type=int, default=TILE)
    parser.add_argument("--views", type=int, nargs="*", default=[64, 28])
    parser.add_argument("--hashes", type=int, default=1_000_000)
    parser.add_argument("--teacher", nargs="*", default=[], help="what the features come from")
    parser.add_argument("--weights", type=Path, default=Path())
    arguments = parser.parse_args()
    print(f"{machine()}, {versions()}")
    if arguments.teacher:
        for seed in arguments.seeds:
            report_features(seed, arguments.tile, arguments.teacher, arguments.weights)
        return
    for seed in arguments.seeds:
        for views in arguments.views:
            report(seed, arguments.tile, views, negatives=views == arguments.views[0])
    if arguments.hashes:
        found = in_own_process(random_hashes, arguments.hashes)
        del found["lap"]  # of the tiles and the shards too
        print("\n## random hashes\n" + "\n".join(f"{k}: {v}" for k, v in found.items()))


if __name__ == "__main__":
    main()
