"""De-duplication on small planted sets: what is removed, what is kept, who decides."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from hgnetv2_pipeline import data
from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.mining import Thresholds, apply_review, deduplicate, read_review, write_review

Sets = dict[str, tuple[pd.DataFrame, Path]]


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def crop(image: Image.Image, share: float, x: float = 0.5, y: float = 0.5) -> Image.Image:
    side = image.width * share
    left, top = (image.width - side) * x, (image.height - side) * y
    return image.crop((round(left), round(top), round(left + side), round(top + side)))


def frame(image: Image.Image, pixels: int, grey: int, text: str = "") -> Image.Image:
    side = image.width + 2 * pixels
    out = Image.new("RGB", (side, side), (grey, grey, grey))
    out.paste(image, (pixels, pixels))
    ImageDraw.Draw(out).text((pixels + 4, pixels + 4), text, fill=(255, 255, 255))
    return out.resize(image.size, Image.Resampling.BICUBIC)


def scored(samples: pd.DataFrame, root: Path) -> pd.DataFrame:
    """What scoring writes of a pool, without a teacher."""
    hashes = [
        data.phash64(data.decode_image(data.read_bytes(row, root))) for _, row in samples.iterrows()
    ]
    return samples[["key", "bytes_sha256"]].assign(phash64=np.array(hashes, dtype=np.uint64))


def tiles() -> Iterator[Image.Image]:
    """Disjoint 80-pixel tiles of scikit-learn's photographs, shown at 160 pixels."""
    from sklearn.datasets import load_sample_images

    for photograph in load_sample_images().images:
        for top in range(0, photograph.shape[0] - 79, 80):
            for left in range(0, photograph.shape[1] - 79, 80):
                tile = Image.fromarray(photograph[top : top + 80, left : left + 80])
                yield tile.resize((160, 160), Image.Resampling.BICUBIC)


def edits(rng: np.random.Generator, image: Image.Image) -> dict[str, Image.Image]:
    """An image under fixed edits, and (in capitals) under random ones off the views' grid."""
    grey = image.convert("L").convert("RGB")
    place = (rng.uniform(), rng.uniform())
    return {
        "exact": image,
        "jpeg40": jpeg(image, 40),
        "half": image.resize((80, 80), Image.Resampling.BICUBIC),
        "bright": image.point(lambda value: min(255, int(value * 1.25 + 10))),
        "crop90": crop(image, 0.9),
        "crop75": crop(image, 0.75),
        "mirror": image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "turn8": image.rotate(8, Image.Resampling.BICUBIC),
        "grey": grey,
        "frame": frame(image, 12, 255, "sample 2024"),
        "crop80jpeg50": jpeg(crop(image, 0.8), 50),
        "CROP": crop(image, rng.uniform(0.7, 0.95), *place),
        "TURN": image.rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC),
        "FRAME": frame(image, int(rng.integers(4, 29)), int(rng.integers(256))),
        "CROPJPEG": jpeg(crop(image, rng.uniform(0.75, 0.95), *place), 60),
    }


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame, Path]:
    """Root of val tiles, planted and clean pool tiles; the plants; root of the pool."""
    home = tmp_path_factory.mktemp("tiles")
    rng = np.random.default_rng(0)
    every = list(tiles())
    order = rng.permutation(len(every))
    plants = []
    for folder in ("val", "pool"):
        (home / folder).mkdir()
    for number in order[::2]:
        every[number].save(home / "val" / f"{number:03d}.png")
        for kind, image in edits(rng, every[number]).items():
            image.save(home / "pool" / f"{number:03d}-{kind}.png")
            plants.append((f"{number:03d}-{kind}.png", f"{number:03d}.png", kind))
    for number in order[1::2]:
        every[number].save(home / "pool" / f"{number:03d}.png")
    columns = ["key", "twin", "kind"]
    return home / "val", pd.DataFrame(plants, columns=columns), home / "pool"


@pytest.mark.slow
def test_photographs_copies_are_found_and_others_kept(
    photographs: tuple[Path, pd.DataFrame, Path],
) -> None:
    val_root, plants, pool_root = photographs
    val, pool = data.scan_unlabelled(val_root).samples, data.scan_unlabelled(pool_root).samples
    found = deduplicate(
        scored(pool, pool_root), {"val": (val, val_root)}, pool=(pool, pool_root), verify_max=16
    )
    fate = plants.merge(found, on="key", how="left").fillna({"decision": "keep"})
    removed = fate[fate["decision"] == "remove"]
    share = (fate["decision"] == "remove").groupby(fate["kind"]).mean()
    assert (share[["exact", "mirror", "grey", "half", "turn8"]] == 1.0).all()
    assert share[[kind for kind in share.index if kind.islower()]].mean() >= 0.85
    assert share[[kind for kind in share.index if kind.isupper()]].mean() >= 0.7
    assert (removed["twin"] == removed["val_key"]).mean() >= 0.99
    clean = found[~found["key"].isin(plants["key"])]
    assert not (clean["decision"] == "remove").any()
    assert (clean["decision"] == "review").sum() <= 1


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sets, pd.DataFrame]:
    root = tmp_path_factory.mktemp("sample") / "sample"
    data.write_sample(root)
    sets: Sets = {
        name: (data.scan_list(root / f"{name}_list.txt", root).samples, root)
        for name in ("val", "train")
    }
    planted = pd.read_csv(root / "planted.csv").rename(columns={"pool_key": "key"})
    planted["key"] = planted["key"].str.removeprefix("pool/")
    return root / "pool", sets, planted


def test_digits_planted_copies_all_go_and_one_percent_of_the_rest_at_most(
    sample: tuple[Path, Sets, pd.DataFrame],
) -> None:
    root, sets, planted = sample
    pool = data.scan_unlabelled(root).samples
    found = deduplicate(
        scored(pool, root), sets, pool=(pool, root), auto_max=2, verify_max=6, workers=2
    )
    fate = planted.merge(found, on="key", how="left", suffixes=("_planted", ""))
    assert (fate["decision"] == "remove").all()
    assert (fate["val_key_planted"] == fate["val_key"]).all()
    assert (fate.loc[fate["kind"] == "exact", "channel"] == "bytes").all()
    lost = found[(found["decision"] != "keep") & ~found["key"].isin(planted["key"])]
    assert len(lost) <= 0.01 * (len(pool) - len(planted))


@pytest.fixture
def few(tmp_path: Path) -> tuple[pd.DataFrame, Path, Sets]:
    """Three pool images: a copy of val, a copy of train edited, another one."""
    rng = np.random.default_rng(3)
    images = [Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)) for _ in range(4)]
    images = [image.resize((96, 96), Image.Resampling.BICUBIC) for image in images]
    for folder in ("val", "train", "pool"):
        (tmp_path / folder).mkdir()
    images[0].save(tmp_path / "val" / "v_1.png")
    images[1].save(tmp_path / "train" / "t_7.png")
    images[0].save(tmp_path / "pool" / "a_1.png")
    jpeg(images[1], 90).save(tmp_path / "pool" / "b_7.png")
    images[2].save(tmp_path / "pool" / "c_9.png")
    sets: Sets = {
        name: (data.scan_unlabelled(tmp_path / name).samples, tmp_path / name)
        for name in ("val", "train")
    }
    return data.scan_unlabelled(tmp_path / "pool").samples, tmp_path / "pool", sets


def decisions(found: pd.DataFrame) -> dict[str, tuple[str, str, str]]:
    return {
        row["key"]: (row["channel"], row["protected"], row["decision"])
        for row in found.to_dict("records")
    }


def test_train_is_protected_by_bytes_and_name_but_not_by_looks(
    few: tuple[pd.DataFrame, Path, Sets],
) -> None:
    pool, root, sets = few
    scores = scored(pool, root)
    assert decisions(deduplicate(scores, sets, pool=(pool, root))) == {
        "a_1.png": ("bytes", "val", "remove")
    }
    guarded = deduplicate(scores, sets, pool=(pool, root), exact_only=())
    assert decisions(guarded)["b_7.png"] == ("phash", "train", "remove")
    named = deduplicate(
        scores, sets, pool=(pool, root), channels=("name",), name_pattern=r"_(\d+)\.png$"
    )
    assert decisions(named) == {
        "a_1.png": ("name", "val", "remove"),
        "b_7.png": ("name", "train", "remove"),
    }


def test_hashes_missing_from_a_protected_index_are_computed(
    few: tuple[pd.DataFrame, Path, Sets],
) -> None:
    pool, root, sets = few
    bare = {name: (frame.assign(bytes_sha256=None), where) for name, (frame, where) in sets.items()}
    whole = deduplicate(scored(pool, root), sets, pool=(pool, root))
    pd.testing.assert_frame_equal(deduplicate(scored(pool, root), bare, pool=(pool, root)), whole)


def test_without_resemblance_the_frame_is_empty_but_typed(
    few: tuple[pd.DataFrame, Path, Sets],
) -> None:
    pool, root, sets = few
    rest = pool[pool["key"] == "c_9.png"]
    found = deduplicate(scored(rest, root), sets, pool=(pool, root), verify_max=6)
    assert len(found) == 0 and found["distance"].dtype == np.int16


@pytest.mark.parametrize(
    "wrong",
    [
        {"auto_max": 11, "verify_max": 10},
        {"channels": ("bytes", "sift")},
        {"channels": ("name",)},
        {"name_pattern": "x"},
        {"views": 40},
    ],
)
def test_impossible_parameters_are_refused(
    few: tuple[pd.DataFrame, Path, Sets], wrong: dict[str, object]
) -> None:
    pool, root, sets = few
    with pytest.raises(ParameterError):
        deduplicate(scored(pool, root), sets, pool=(pool, root), **wrong)  # type: ignore[arg-type]


def test_a_protected_image_that_cannot_be_read_stops_the_run(
    few: tuple[pd.DataFrame, Path, Sets],
) -> None:
    pool, root, sets = few
    scores = scored(pool, root)
    (sets["val"][1] / "v_1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"v_1\.png"):
        deduplicate(scores, sets, pool=(pool, root))


def test_what_falls_between_the_limits_is_left_to_a_person_who_is_obeyed(
    few: tuple[pd.DataFrame, Path, Sets], tmp_path: Path
) -> None:
    pool, root, sets = few
    limits = Thresholds(correlation=1.1, sift_inliers=10_000, review_correlation=0.9)
    found = deduplicate(
        scored(pool, root), sets, pool=(pool, root), auto_max=0, thresholds=limits,
        channels=("phash",), exact_only=(), views=1,
    )  # fmt: skip
    assert decisions(found)["b_7.png"][2] in ("review", "remove")
    found["decision"] = found["decision"].where(found["key"] != "b_7.png", "review")
    path = write_review(tmp_path / "review.csv", found)
    text = path.read_text()
    assert "b_7.png" in text and "a_1.png" not in text
    path.write_text(text.replace(",review\n", ", Keep\n"))
    assert decisions(apply_review(found, read_review(path)))["b_7.png"][2] == "keep"
    # Written again after another run, the person's word stands.
    write_review(path, found)
    assert decisions(apply_review(found, read_review(path)))["b_7.png"][2] == "keep"
    extra = pd.DataFrame({"key": ["c_9.png"], "decision": ["remove"]})
    assert decisions(apply_review(found, extra))["c_9.png"] == ("person", "", "remove")


def test_an_exact_copy_cannot_be_kept_and_odd_words_are_named(
    few: tuple[pd.DataFrame, Path, Sets], tmp_path: Path
) -> None:
    pool, root, sets = few
    found = deduplicate(scored(pool, root), sets, pool=(pool, root))
    with pytest.raises(DataError, match="a_1.png is a protected image itself"):
        apply_review(found, pd.DataFrame({"key": ["a_1.png"], "decision": ["keep"]}))
    path = tmp_path / "review.csv"
    path.write_text("key,decision\nx.png,remove\ny.png,maybe\n")
    with pytest.raises(DataError, match="line 3: decision 'maybe' of y.png"):
        read_review(path)
    path.write_text("key,decision\nx.png,remove\nx.png,keep\n")
    with pytest.raises(DataError, match="x.png twice"):
        read_review(path)
