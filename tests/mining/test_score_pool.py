"""The teacher's pass: resumable, shard by shard, with bad images set aside."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hgnetv2_pipeline.data import decode, perceptual, preprocess
from hgnetv2_pipeline.data.index import write_index
from hgnetv2_pipeline.data.scan import folders
from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.errors import DataError, Interrupted, ParameterError, WeightsError
from hgnetv2_pipeline.input.loader import normalise
from hgnetv2_pipeline.mining import score as score_module
from hgnetv2_pipeline.mining.audit import audit, count_classes
from hgnetv2_pipeline.mining.candidates import Candidates
from hgnetv2_pipeline.mining.duplicates.find import DuplicateSearch, deduplicate
from hgnetv2_pipeline.mining.earlier_scores import EarlierScores
from hgnetv2_pipeline.mining.score import score_pool
from hgnetv2_pipeline.mining.score_shards import read_quarantined, write_scores
from hgnetv2_pipeline.mining.score_spec import ScoreSpec
from hgnetv2_pipeline.mining.selection import select
from hgnetv2_pipeline.mining.sheets import contact_sheets
from hgnetv2_pipeline.models import create
from hgnetv2_pipeline.weights import build, load

CLASSES = 5
HOW = preprocess.Preprocess(resize_short=32, crop=32)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny random teachers, ``one.safetensors`` and ``two.safetensors``."""
    root = tmp_path_factory.mktemp("weights")
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        model = create.create_model("b0", CLASSES)
        load.save_weights(
            root / f"{name}.safetensors",
            model,
            {"format": "hgnetv2_pipeline/1", "variant": "b0", "num_classes": str(CLASSES)},
        )
    return root


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Thirty small images with spaces and umlauts in their names; two have the same bytes."""
    root = tmp_path / "pool"
    (root / "a b").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(30):
        pixels = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        side = (40 + number % 3, 36)
        image = Image.fromarray(pixels).resize(side, Image.Resampling.BICUBIC)
        image.save(root / ("a b" if number % 2 else ".") / f"bild ü{number:02d}.png")
    (root / "copy.png").write_bytes((root / "bild ü00.png").read_bytes())
    return root


@pytest.fixture
def score(weights: Path, pool: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def call(samples: pd.DataFrame | Path, **changes: Any) -> dict[str, Any]:
        if isinstance(samples, pd.DataFrame):
            samples = write_index(tmp_path / "index.parquet", samples)
        values: dict[str, Any] = {
            "index": samples,
            "root": pool,
            "prefix": "",
            "teachers": ["one.safetensors"],
            "num_classes": CLASSES,
            "weights_root": weights,
            "preprocess": HOW.to_dict(),
            "out": tmp_path / "scores",
            "shard_rows": 8,
            "batch_size": 4,
            "workers": 0,
            "features": False,
            "dtype": "float32",
            "device": "cpu",
            "max_bad": 0.5,
        }
        return score_pool(ScoreSpec(**(values | changes)))

    return call


def rows_of(scores: Path) -> pd.DataFrame:
    parts = [pd.read_parquet(path) for path in sorted(scores.glob("*.parquet"))]
    return pd.concat(parts, ignore_index=True)


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()}


def break_some(root: Path, samples: pd.DataFrame) -> dict[str, str]:
    """Spoil three images after they were indexed, each in its own way."""
    keys = samples["key"].tolist()
    (root / keys[2]).write_bytes(b"<html>no image</html>")
    (root / keys[3]).unlink()
    Image.new("RGB", (40, 40)).save(root / keys[20])
    return {keys[2]: "bytes", keys[3]: "missing", keys[20]: "bytes"}


def test_scores_are_the_mean_of_the_teachers_probabilities(
    score: Callable[..., dict[str, Any]], pool: Path, weights: Path, tmp_path: Path
) -> None:
    samples = folders.scan_unlabelled(pool).samples
    teachers = ["one.safetensors", "two.safetensors"]
    summary = score(samples, teachers=teachers)
    assert (summary["listed"], summary["scored"], summary["quarantined"]) == (31, 31, 0)
    rows = rows_of(tmp_path / "scores")
    assert rows["key"].tolist() == samples["key"].tolist() == sorted(samples["key"])
    pixels = np.stack([HOW.image(pool / path) for path in samples["path"]])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    mean = torch.zeros(31, CLASSES, dtype=torch.float64)
    for name in teachers:
        model, _ = build.build_from(name, num_classes=CLASSES, root=weights)
        with torch.inference_mode():
            logits = model.eval()(normalise(images, HOW.mean, HOW.std))
        mean += logits.double().softmax(1) / 2
    best = mean.sort(dim=1, descending=True, stable=True)
    assert np.stack(rows["top_ids"]).shape == (31, CLASSES)
    assert (np.stack(rows["top_ids"])[:, 0] == best.indices[:, 0].numpy()).all()
    assert np.allclose(np.exp(np.stack(rows["top_logits"])), best.values.numpy(), atol=1e-6)
    assert np.allclose(rows["lse"], 0, atol=1e-6)
    assert np.abs(rows["score_q"] - best.values[:, 0].numpy() * 1e6).max() <= 2
    # Rounded, not cut off: half of the images would have a millionth less.
    kept = np.stack(rows["top_logits"])[:, 0].astype(np.float64) - rows["lse"]
    off = rows["score_q"] - np.exp(kept) * 1e6
    assert np.abs(off).max() <= 0.5 + 1e-6 and 0 < (off > 0).sum() < len(off)
    assert rows["bytes_sha256"].tolist() == samples["bytes_sha256"].tolist()
    hashes = [perceptual.phash64(decode.decode_image(pool / path)) for path in samples["path"]]
    assert rows["phash64"].tolist() == hashes


def test_a_rerun_does_only_what_is_missing_and_gives_the_same_bytes(
    score: Callable[..., dict[str, Any]], pool: Path, tmp_path: Path
) -> None:
    samples, out = folders.scan_unlabelled(pool).samples, tmp_path / "scores"
    assert score(samples)["shards"] == 4
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(before)[1:3] == ["shard=00000.json", "shard=00000.parquet"]
    first = stamps(out)
    assert score(samples)["shards_reused"] == 4
    (out / "shard=00001.parquet").unlink()
    (out / "shard=00002.json").unlink()
    damaged = bytearray(before["shard=00003.parquet"])
    damaged[40] ^= 1
    (out / "shard=00003.parquet").write_bytes(damaged)
    assert score(samples)["shards_reused"] == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    last = stamps(out)
    assert {n for n in first if n.startswith("shard=00000") and first[n] != last[n]} == set()


def test_scores_in_the_layout_of_the_first_version_are_kept_as_they_are(
    score: Callable[..., dict[str, Any]], pool: Path, weights: Path, tmp_path: Path
) -> None:
    """Manifests written here with hashlib and json, as the version that had its own shards did."""
    samples, out = folders.scan_unlabelled(pool).samples, tmp_path / "scores"
    score(samples)
    today = {path.name: path.read_bytes() for path in out.iterdir()}
    for path in out.glob("*.json"):
        path.unlink()

    def write(name: str, value: dict[str, Any]) -> None:
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
        (out / name).write_text(text + "\n")

    write("plan.json", {"listed": 31, "shard_rows": 8, "shards": 4, "prefix": ""})
    sha256 = hashlib.sha256((weights / "one.safetensors").read_bytes()).hexdigest()
    for number in range(4):
        rows = samples.iloc[8 * number : 8 * number + 8]
        names = ["key", "path", "offset", "length", "bytes_sha256"]
        lines = ["\0".join(map(str, row)) + "\n" for row in rows[names].itertuples(index=False)]
        identity = {
            "format": 2,
            "inputs_sha256": hashlib.sha256("".join(lines).encode()).hexdigest(),
            "teachers": [{"sha256": sha256, "preprocess": HOW.fingerprint}],
            "num_classes": CLASSES, "dtype": "float32", "batch_size": 4, "features": False,
        }  # fmt: skip
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        content = (out / f"shard={number:05d}.parquet").read_bytes()
        manifest = {
            "number": number, "identity": identity, "teachers": ["one.safetensors"],
            "device": "cpu", "listed": len(rows), "rows": len(rows), "quarantined": [],
            "first_key": rows["key"].iloc[0],
            "identity_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "parquet_sha256": hashlib.sha256(content).hexdigest(),
        }  # fmt: skip
        write(f"shard={number:05d}.json", manifest)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == today
    before = stamps(out)
    assert score(samples)["shards_reused"] == 4
    after = stamps(out)
    assert {name for name in before if before[name] != after[name]} == {"plan.json"}


def test_another_teacher_preprocessing_or_image_is_scored_again(
    score: Callable[..., dict[str, Any]], pool: Path, tmp_path: Path
) -> None:
    samples = folders.scan_unlabelled(pool).samples
    score(samples)
    assert score(samples, teachers=["two.safetensors"])["shards_reused"] == 0
    how = preprocess.Preprocess(resize_short=36, crop=32).to_dict()
    assert score(samples, teachers=["two.safetensors"], preprocess=how)["shards_reused"] == 0
    Image.new("RGB", (50, 50), "red").save(pool / samples["path"][10])
    changed = folders.scan_unlabelled(pool).samples
    assert score(changed, teachers=["two.safetensors"], preprocess=how)["shards_reused"] == 3


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the images that are read from now on."""
    read, asked = score_module.index.read_bytes, list[str]()

    def read_and_note(place: Any, root: Path) -> bytes:
        asked.append(str(place["path"]))
        return read(place, root)

    monkeypatch.setattr(score_module.index, "read_bytes", read_and_note)
    return asked


def regroup(pool: Path) -> pd.DataFrame:
    """The pool a week later: three images more, one gone, one changed, all the others elsewhere."""
    rng = np.random.default_rng(9)
    for name in ("a b/aa.png", "m.png", "zz.png"):
        Image.fromarray(rng.integers(0, 255, (40, 36, 3), dtype=np.uint8)).save(pool / name)
    (pool / "copy.png").unlink()
    Image.new("RGB", (50, 50), "red").save(pool / "bild ü04.png")
    (pool / "a b").rename(pool / "sorted")
    return folders.scan_unlabelled(pool).samples


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"shard_rows": 5}, {"shard_rows": 31}),
        ({"features": True}, {"features": False}),
        ({"features": True, "world_size": 2}, {"features": True, "world_size": 3}),
    ],
)
def test_a_grown_pool_is_scored_where_it_is_new_and_is_as_if_scored_afresh(
    score: Callable[..., dict[str, Any]],
    pool: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: dict[str, Any],
    now: dict[str, Any],
) -> None:
    def scored(out: str, changes: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
        ranks = range(changes.get("world_size", 1))
        place = {"out": tmp_path / out} | changes | more
        return [score(tmp_path / "index.parquet", rank=rank, **place) for rank in ranks]

    write_index(tmp_path / "index.parquet", folders.scan_unlabelled(pool).samples)
    scored("before", before)
    samples = regroup(pool)
    write_index(tmp_path / "index.parquet", samples)
    scored("afresh", now)
    asked = counted(monkeypatch)
    counts = scored("now", now, earlier=(tmp_path / "nowhere", tmp_path / "before"))
    new = ["bild ü04.png", "m.png", "sorted/aa.png", "zz.png"]
    assert sorted(asked) == new
    assert sum(each["taken_over"] for each in counts) == len(samples) - len(new)
    assert sum(each["scored"] for each in counts) == len(samples)
    for path in sorted((tmp_path / "afresh").glob("*.parquet")):
        assert path.read_bytes() == (tmp_path / "now" / path.name).read_bytes()
    pd.testing.assert_frame_equal(rows_of(tmp_path / "now"), rows_of(tmp_path / "afresh"))
    assert scored("now", now)[0]["shards_reused"], "they are finished shards like any other"


@pytest.mark.parametrize(
    "changes",
    [
        {"teachers": ["two.safetensors"]},
        {"teachers": ["one.safetensors", "two.safetensors"]},
        {"preprocess": preprocess.Preprocess(resize_short=36, crop=32).to_dict()},
        {"batch_size": 5},
        {"features": True},
    ],
)
def test_nothing_is_taken_over_from_scores_that_were_made_otherwise(
    score: Callable[..., dict[str, Any]], pool: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    samples = folders.scan_unlabelled(pool).samples
    score(samples, out=tmp_path / "before")
    assert score(samples, **changes, earlier=(tmp_path / "before",))["taken_over"] == 0


def test_earlier_scores_that_are_damaged_are_made_again(
    score: Callable[..., dict[str, Any]],
    pool: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    samples, before = folders.scan_unlabelled(pool).samples, tmp_path / "before"
    broken = break_some(pool, samples)
    score(samples, out=before)
    score(samples, out=tmp_path / "afresh", shard_rows=31)
    damaged = bytearray((before / "shard=00001.parquet").read_bytes())
    damaged[40] ^= 1
    (before / "shard=00001.parquet").write_bytes(damaged)
    (before / "shard=00002.json").write_text("[]")
    (before / "shard=00003.parquet").unlink()
    counts = score(samples, shard_rows=31, earlier=(before,))
    # Of the first shard six could be read; what could not be read is tried again.
    assert (counts["taken_over"], counts["scored"], counts["quarantined"]) == (6, 28, len(broken))
    again, afresh = tmp_path / "scores", tmp_path / "afresh"
    assert rows_of(again).equals(rows_of(afresh))
    assert read_quarantined(again).equals(read_quarantined(afresh))
    for number in (1, 2, 3):
        assert f"shard=0000{number}" in caplog.text


def test_one_half_of_a_hash_is_not_the_same_image(
    score: Callable[..., dict[str, Any]], pool: Path, tmp_path: Path
) -> None:
    samples = folders.scan_unlabelled(pool).samples.assign(bytes_sha256="")
    score(samples, out=tmp_path / "before")
    hashes = rows_of(tmp_path / "before")["bytes_sha256"]
    kind = read_json(tmp_path / "before" / "shard=00000.json")["identity"]
    alike = EarlierScores([tmp_path / "before"], kind)
    asked = pd.DataFrame({"key": samples["key"], "bytes_sha256": hashes})
    assert alike.take(asked)[0].tolist() == list(range(31))
    write_scores(
        tmp_path / "odd", 0,
        {"key": ["a"], "top_ids": [[0]], "top_logits": [[0.5]], "lse": [0.5], "score_q": [1],
         "phash64": [1], "bytes_sha256": ["no hash"]},
        read_json(tmp_path / "before" / "shard=00000.json"),
    )  # fmt: skip
    odd = EarlierScores([tmp_path / "odd", tmp_path / "before"], kind)
    assert len(odd.take(asked)[0]) == 31, "a shard without hashes gives nothing"
    asked["bytes_sha256"] = hashes.str[:16] + "0" * 48
    assert not len(alike.take(asked)[0])
    assert score(samples, earlier=(tmp_path / "before",))["taken_over"] == 0, "no hash is known"


def test_a_shorter_pool_leaves_no_shards_behind(
    score: Callable[..., dict[str, Any]], pool: Path, tmp_path: Path
) -> None:
    samples = folders.scan_unlabelled(pool).samples
    score(samples)
    assert score(samples.iloc[:16])["shards_reused"] == 2
    names = sorted(path.name for path in (tmp_path / "scores").glob("*.parquet"))
    assert names == ["shard=00000.parquet", "shard=00001.parquet"]
    assert len(select(Candidates(tmp_path / "scores"), k=100)) == 16


@pytest.mark.parametrize("row_group", [5, 1000])
def test_an_index_file_is_streamed_into_the_same_shards(
    score: Callable[..., dict[str, Any]], pool: Path, tmp_path: Path, row_group: int
) -> None:
    samples = folders.scan_unlabelled(pool).samples
    score(samples)
    samples.to_parquet(tmp_path / "index.parquet", row_group_size=row_group)
    assert score(tmp_path / "index.parquet")["shards_reused"] == 4
    samples[::-1].to_parquet(tmp_path / "index.parquet", row_group_size=row_group)
    with pytest.raises(DataError, match="not sorted by key"):
        score(tmp_path / "index.parquet", out=tmp_path / "other")


def test_the_mined_list_is_the_same_for_any_shards_processes_and_workers(
    score: Callable[..., dict[str, Any]], pool: Path, tmp_path: Path
) -> None:
    samples = folders.scan_unlabelled(pool).samples
    hashes = set()
    for shard_rows, world_size, workers in ((31, 1, 0), (16, 1, 1), (5, 3, 0)):
        out = tmp_path / f"scores-{shard_rows}"
        for rank in reversed(range(world_size)):
            score(
                samples, out=out, shard_rows=shard_rows, workers=workers, rank=rank,
                world_size=world_size,
            )  # fmt: skip
        path = select(Candidates(out), k=4).write(tmp_path / "mined.parquet")
        hashes.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(hashes) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_images_are_set_aside_and_disturb_no_other(
    score: Callable[..., dict[str, Any]], pool: Path, tmp_path: Path, workers: int
) -> None:
    samples = folders.scan_unlabelled(pool).samples
    whole = score(samples) and rows_of(tmp_path / "scores").set_index("key")
    bad = break_some(pool, samples)
    summary = score(samples, out=tmp_path / "broken", workers=workers)
    assert (summary["listed"], summary["scored"], summary["quarantined"]) == (31, 28, 3)
    reasons = read_quarantined(tmp_path / "broken").set_index("key")["reason"]
    assert set(reasons.index) == set(bad)
    assert all(word in reasons[key] for key, word in bad.items())
    rows = rows_of(tmp_path / "broken").set_index("key")
    # Neighbours in a batch do not feel that an image is missing.
    pd.testing.assert_frame_equal(rows, whole.drop(index=list(bad)))
    assert score(samples, out=tmp_path / "broken")["shards_reused"] == 4
    # Those in finished shards count as well.
    with pytest.raises(DataError, match="3 of 31 images cannot be used, 2 may"):
        score(samples, out=tmp_path / "broken", max_bad=0.08)


def test_the_counts_add_up_from_the_pool_to_the_list(
    score: Callable[..., dict[str, Any]], pool: Path, tmp_path: Path
) -> None:
    samples = folders.scan_unlabelled(pool).samples
    bad = break_some(pool, samples)
    score(samples)
    scores = tmp_path / "scores"
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "v.png").write_bytes((pool / "copy.png").read_bytes())
    protected = {"val": (folders.scan_unlabelled(tmp_path / "val").samples, tmp_path / "val")}
    search = DuplicateSearch(auto_max=2, verify_max=4)
    dedup = deduplicate(scores, protected, pool=(samples, pool), search=search)
    candidates = Candidates(scores, dedup)
    mined = select(candidates, k=6).frame()
    truth = pd.DataFrame({"key": samples["key"], "label": pd.array([0] * 31, dtype="Int64")})
    truth.loc[:9, "label"] = pd.NA
    names = [f"class {label}" for label in range(CLASSES)]
    listed = tmp_path / "mined.parquet"
    mined.to_parquet(listed)
    table = count_classes(candidates, listed, classes=names)
    counts = audit(candidates, listed, table=table, truth=truth)
    assert counts["pool_listed"] == 31 == counts["scored"] + counts["quarantined"]
    parts = ("n_used", "n_quarantined", "n_refused")
    assert counts["n_listed"] == 31 == sum(counts[part] for part in parts)
    removed = (dedup["decision"] == "remove").sum()
    assert counts["removed"] == removed == counts["exact_duplicates"] + counts["near_removed"] >= 2
    assert counts["candidates"] == 28 - removed - counts["review"]
    assert counts["selected"] == len(mined) == table["selected"].sum()
    passed_over = counts["same_bytes"] + counts["below_min_conf"] + counts["not_reached"]
    assert counts["candidates"] == counts["selected"] + passed_over
    assert sum(row["remove"] for row in counts["by_channel"].values()) == removed
    per_class = mined.groupby("label")["score"]
    assert np.allclose(table["median_score"].dropna(), per_class.median(), atol=1e-6)
    assert counts["short_classes"] == (table["selected"] < counts["k"]).sum()
    assert not mined["key"].isin([*bad, "copy.png", "bild ü00.png"]).any()
    known = mined.merge(truth, on="key", suffixes=("", "_true"))
    assert counts["purity"]["distractors"] == known["label_true"].isna().sum()
    sheets = contact_sheets(
        listed, dedup, pool=(samples, pool), protected=protected, classes=names, columns=4
    )
    assert list(sheets) == ["top", "bottom", "removed", "review"]
    assert sheets["removed"].width >= 2 * 96
    select(Candidates(scores), k=100).write(listed)
    with pytest.raises(DataError, match="mine again"):
        audit(candidates, listed, table=count_classes(candidates, listed, classes=names))


def test_too_many_bad_images_stop_the_run(score: Callable[..., dict[str, Any]], pool: Path) -> None:
    samples = folders.scan_unlabelled(pool).samples
    break_some(pool, samples)
    with pytest.raises(DataError, match="max_bad"):
        score(samples, max_bad=0.01)


def test_a_stop_request_leaves_whole_shards_and_the_rest_is_done_later(
    score: Callable[..., dict[str, Any]],
    pool: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples, read = folders.scan_unlabelled(pool).samples, score_module.index.read_bytes

    def read_and_be_stopped(row: Any, root: Path) -> bytes:
        if row["key"] == samples["key"][19]:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(row, root)

    former = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(score_module.index, "read_bytes", read_and_be_stopped)
    with pytest.raises(Interrupted):
        score(samples)
    assert signal.getsignal(signal.SIGTERM) is former
    names = sorted(path.name for path in (tmp_path / "scores").iterdir())
    assert names == ["plan.json"] + [
        f"shard=0000{number}.{kind}" for number in range(2) for kind in ("json", "parquet")
    ]
    with pytest.raises(DataError, match="run scoring again"):
        select(Candidates(tmp_path / "scores"), k=1)
    monkeypatch.undo()
    assert score(samples)["shards_reused"] == 2
    assert read_json(tmp_path / "scores" / "shard=00003.json")["rows"] == 7


def test_a_teacher_that_answers_nonsense_is_named(
    score: Callable[..., dict[str, Any]], pool: Path, weights: Path
) -> None:
    model = create.create_model("b0", CLASSES)
    with torch.no_grad():
        model.fc.bias.fill_(float("nan"))
    load.save_weights(weights / "nan.safetensors", model, {"variant": "b0"})
    with pytest.raises(WeightsError, match=r"nan\.safetensors"):
        score(folders.scan_unlabelled(pool).samples, teachers=["nan.safetensors"])


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"teachers": []}, ParameterError, "at least one"),
        ({"dtype": "int8"}, ParameterError, "float32"),
        ({"batch_size": 0}, ParameterError, "mining.batch_size"),
        ({"preprocess": None}, ParameterError, "import_weights writes a file that does"),
        ({"rank": 2, "world_size": 2}, ParameterError, "rank 2"),
    ],
)
def test_impossible_parameters_are_refused_before_any_work(
    score: Callable[..., dict[str, Any]],
    pool: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        score(folders.scan_unlabelled(pool).samples, **changes)
    assert not list(tmp_path.glob("scores/*"))


def test_an_empty_pool_is_an_error(score: Callable[..., dict[str, Any]], pool: Path) -> None:
    with pytest.raises(DataError, match="pool is empty"):
        score(folders.scan_unlabelled(pool).samples.iloc[:0])
