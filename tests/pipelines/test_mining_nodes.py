"""Mining through its nodes: sources that grow, rules that reach the list, an account of all images.

One small project is mined by a random B0 of 32 pixels; what is asked is which images end where.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hgnetv2_pipeline.data import index
from hgnetv2_pipeline.data.decisions import Decision, record_decision
from hgnetv2_pipeline.data.index import read_index
from hgnetv2_pipeline.data.lists.read import read_list
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.durable import read_json, write_json
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.mining import score_processes
from hgnetv2_pipeline.mining.selection import default_target
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.pipelines.ingestion.nodes import make_lists, provide_raw
from hgnetv2_pipeline.pipelines.label_next.nodes import propose_images
from hgnetv2_pipeline.pipelines.mining.nodes import (
    audit,
    deduplicate,
    estimate_purity,
    map_pool,
    score_hidden_images,
    score_pool,
    select,
)
from hgnetv2_pipeline.processes import specs
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.mining.scoring import images_to_score
from hgnetv2_pipeline.project.params import LabelNextParams, MiningParams
from hgnetv2_pipeline.project.results import Reuse
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.teaching.teacher import read_teacher
from hgnetv2_pipeline.weights.load import save_weights
from tiny_project import identity, parameters, picture, run_of

DEDUP = {
    "channels": ["bytes", "phash"], "name_pattern": None, "views": 28, "auto_max": 0,
    "verify_max": 0, "verify_budget": None, "feature_min": 0.9, "strict": True,
}  # fmt: skip
WEB = 60


def mining(**given: Any) -> MiningParams:
    values: dict[str, Any] = {
        "batch_size": 16, "shard_rows": 25, "workers": 0, "processes": 1, "features": False,
        "rank_by": "confidence", "k": 8, "target_total": None, "min_conf": 0.0, "top_p": 1,
        "diversity": None,
        "exclude": [], "label_mode": "teacher_top1", "max_bad": 0.5, "map_images": 30,
        "deduplicate": DEDUP,
        "purity": {"probes": "val", "images": 10},
    }  # fmt: skip
    return MiningParams(**(values | given))


@dataclass
class Project:
    """A project with labelled images, a pool of three kinds of sources and a teacher."""

    root: Path
    pool: list[str] = field(default_factory=lambda: ["web"])

    @property
    def run(self) -> Run:
        return run_of(identity(self.root))

    def ingest(self) -> Path:
        data = parameters(pool=self.pool, max_bad=0.5)
        return make_lists(self.run, data, provide_raw(self.run, data))

    def score(self, lists: Path, **given: Any) -> Path:
        return score_pool(self.run, mining(**given), lists, self.run.folder("train_teacher"))

    def mine(self, audited: bool = False, **given: Any) -> Mined:
        return self.mine_from(self.ingest(), audited, **given)

    def mine_from(self, lists: Path, audited: bool = False, **given: Any) -> Mined:
        scores = self.score(lists, **given)
        run, params = self.run, mining(**given)
        pairs = deduplicate(run, params, lists, scores)
        folder = select(run, params, lists, scores, pairs)
        counts = self.audit(lists, scores, folder, params) if audited else {}
        return Mined(
            Lists(lists), scores, counts, pd.read_parquet(folder / "mined.parquet"),
            read_index(folder / "train_mined.parquet"), read_list(folder / "train_list_mined.txt"),
            pd.read_parquet(pairs / "dedup.parquet"),
        )  # fmt: skip

    def audit(self, lists: Path, scores: Path, mined: Path, params: MiningParams) -> dict[str, Any]:
        run, teacher = self.run, self.run.folder("train_teacher")
        hidden = score_hidden_images(run, params, lists, teacher, scores)
        purity = estimate_purity(run, params, lists, scores, mined, hidden)
        pool_map = map_pool(run, params, lists, teacher, scores, mined)
        made = audit(run, params, lists, scores, mined, purity, pool_map)
        counts: dict[str, Any] = read_json(made[1])
        return counts


@dataclass
class Mined:
    lists: Lists
    scores: Path
    counts: dict[str, Any]
    mined: pd.DataFrame
    merged: pd.DataFrame
    listed: pd.DataFrame
    pairs: pd.DataFrame

    @property
    def barred(self) -> set[str]:
        """Images of the pool that are copies of protected ones."""
        return set(self.pairs["key"])

    @property
    def raw(self) -> pd.DataFrame:
        """All scores, read file by file."""
        files = sorted(self.scores.glob("*/shard=*.parquet"))
        return pd.concat([pd.read_parquet(path) for path in files], ignore_index=True)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    for kind in range(2):
        for number in range(6):
            picture(root / "images" / "ab"[kind] / f"{number}.png", 100 * kind + number)
    for number in range(WEB):
        picture(root / "web" / "deep" / f"{number:03d}.png", 1000 + number)
    shutil.copyfile(root / "images/a/1.png", root / "web" / "labelled before.png")
    shutil.copyfile(root / "web/deep/007.png", root / "web" / "deep" / "again.png")
    for number in range(20):
        picture(root / "more" / f"{number:03d}.png", 2000 + number)
    with tarfile.open(root / "packed.tar", "w") as tar:
        for number in range(20):
            picture(root / "x.png", 3000 + number)
            tar.add(root / "x.png", f"in/{number:03d}.png")
    (root / "more.txt").write_text("more/004.png 0\nmore/005.png 0\n")
    torch.manual_seed(0)
    how = Preprocess(resize_short=32, crop=32)
    save_weights(
        root / "weights" / "teacher.safetensors",
        create_model("b0", 2),
        {"format": "hgnetv2_pipeline/1", "variant": "b0", "num_classes": "2",
         "preprocess": json.dumps(how.to_dict())},
    )  # fmt: skip
    record = {"members": ["weights/teacher.safetensors"], "bn": "eval"}
    write_json(identity(root).folder("train_teacher") / "teacher.json", record)
    return root


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Project:
    shutil.copytree(template, tmp_path / "project")
    return Project(tmp_path / "project")


@pytest.fixture(scope="module")
def usual(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose scores are made once, for tests of what comes after them."""
    root = tmp_path_factory.mktemp("usual") / "project"
    shutil.copytree(template, root)
    return Project(root)


@pytest.fixture(scope="module")
def plain(usual: Project) -> Mined:
    """It mined with its usual parameters."""
    return usual.mine()


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_source_that_is_added_is_scored_and_the_others_are_left_alone(project: Project) -> None:
    lists = project.ingest()
    scores = project.score(lists)
    before = stamps(scores / "web")
    assert {name for name in before if name.endswith("parquet")} == {
        f"shard=0000{number}.parquet" for number in range(3)
    }
    alone = read_json(scores / "manifest.json")["outputs"]
    scan = stamps(identity(project.root).folder("pool_index") / "web")
    project.pool += ["packed.tar", "more.txt"]
    grown = project.mine(audited=True)
    assert stamps(scores / "web") == before
    assert stamps(identity(project.root).folder("pool_index") / "web") == scan
    assert not (scores / "archive").exists()
    outputs = read_json(scores / "manifest.json")["outputs"]
    assert outputs.items() > alone.items()
    keys = set(grown.raw["key"])
    assert len(keys) == WEB + 2 + 20 + 2
    assert {"pool/packed/packed.tar!in/003.png", "pool/more/more/004.png"} < keys
    assert read_index(grown.lists.index("pool"))["label"].isna().all()
    assert grown.counts["pool_listed"] == len(keys)

    project.pool = ["more.txt", "packed.tar"]
    smaller = project.mine(audited=True)
    assert stamps(scores / "web") == before, "what was scored stays, unused"
    assert not smaller.mined["key"].str.startswith("pool/web/").any()
    assert smaller.counts["pool_listed"] == 22


def fresh_scores(project: Project, tmp_path: Path, **given: Any) -> dict[str, bytes]:
    """The shards of a project that has the same images and no scores yet."""
    other = Project(tmp_path / "fresh", project.pool)
    shutil.copytree(project.root, other.root, ignore=lambda *_: ["data"])
    shutil.copytree(project.run.folder("train_teacher"), other.run.folder("train_teacher"))
    return shards_of(other.score(other.ingest(), **given))


def shards_of(scores: Path) -> dict[str, bytes]:
    files = sorted(scores.glob("*/shard=*.parquet"))
    return {path.relative_to(scores).as_posix(): path.read_bytes() for path in files}


def test_a_source_that_grew_is_scored_where_it_is_new(
    project: Project,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An image of the old folder, of another source or of another shard is known by its bytes."""
    project.score(project.ingest())
    project.pool = ["web", "more"]
    picture(project.root / "web" / "000 first.png", 7000)
    picture(project.root / "web" / "zzz last.png", 7001)
    moved = project.root / "more" / "deep"
    (project.root / "web" / "deep" / "009.png").rename(project.root / "more" / "moved.png")
    lists, read = project.ingest(), index.read_bytes
    asked = []
    monkeypatch.setattr(
        index, "read_bytes", lambda row, root: asked.append(row["path"]) or read(row, root)
    )
    caplog.set_level("INFO")
    scores = project.score(lists)
    new = {Path(path).name for path in asked}
    assert new == {"000 first.png", "zzz last.png", *(f"{n:03d}.png" for n in range(20))}
    assert len(asked) == 22 and not moved.exists()
    assert "pool/web: 2 of 63 images scored, 61 reused" in caplog.text
    assert "pool/more: 20 of 21 images scored, 1 reused" in caplog.text
    assert shards_of(scores) == fresh_scores(project, tmp_path)


def test_what_is_left_to_score_is_counted_before_it_is_scored(project: Project) -> None:
    teacher = read_teacher(project.run.folder("train_teacher"), project.run.identity)

    def left(**given: Any) -> int:
        lists, reuse = Lists(project.ingest()), Reuse(project.root, dry=True)
        return images_to_score(project.run, mining(**given), lists, teacher, reuse)

    assert left() == WEB + 2
    project.score(project.ingest())
    assert left() == left(shard_rows=40) == 0
    assert left(batch_size=8) == left(features=True) == WEB + 2
    record = read_json(teacher.record)
    write_json(teacher.record, record | {"val": "its images have changed"})
    assert left() == 0, "what a teacher answers follows from its weights, not from its record"
    project.pool = ["web", "more"]
    picture(project.root / "web" / "zzz.png", 7001)
    assert left() == 21


def test_a_relabelled_image_is_not_scored_again(
    project: Project, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_features = DEDUP | {"channels": ["bytes", "features"]}
    given = {"features": True, "deduplicate": by_features}
    project.score(project.ingest(), **given)
    (project.root / "images" / "a" / "1.png").rename(project.root / "images" / "b" / "11.png")
    lists = project.ingest()
    monkeypatch.setattr(index, "read_bytes", lambda row, root: pytest.fail(f"{row} is read"))
    scores = project.score(lists, **given)
    guarded = pd.concat(
        pd.read_parquet(path)
        for path in project.run.folder("guarded").glob("[tv]*/scores/*.parquet")
    )
    assert guarded["key"].str.endswith("b/11.png").sum() == 1
    assert len(guarded) == 12 and len(shards_of(scores)) == 3


def test_sources_of_one_name_and_sources_that_are_missing(project: Project) -> None:
    shutil.copytree(project.root / "more", project.root / "other" / "web")
    project.pool = ["web", "other/web"]
    keys = set(read_index(Lists(project.ingest()).index("pool"))["key"])
    assert {"pool/web/deep/000.png", "pool/web-2/000.png"} < keys
    project.pool = ["web", "nowhere"]
    with pytest.raises(DataError, match="data.pool: nowhere does not exist"):
        project.ingest()


def test_another_shard_size_is_scored_again_and_the_old_result_kept(
    project: Project, plain: Mined
) -> None:
    lists = project.ingest()
    project.score(lists)
    again = project.mine(shard_rows=40)
    assert len(list(again.scores.glob("archive/*/web/shard=*.parquet"))) == 3
    assert len(list((again.scores / "web").glob("shard=*.parquet"))) == 2
    pd.testing.assert_frame_equal(again.mined, plain.mined)


def in_turn(module: str, spec_files: Sequence[Path], **_: Any) -> None:
    """The processes of a pass one after the other in this one, which has torch loaded already."""
    assert module == "hgnetv2_pipeline.mining.score_processes"
    for path in spec_files:
        assert score_processes.main([str(path)]) == 0


@pytest.mark.parametrize("started", [in_turn, pytest.param(None, marks=pytest.mark.slow)])
def test_several_processes_give_the_list_of_one(
    project: Project, plain: Mined, started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if started is not None:
        monkeypatch.setattr(specs, "run_side_by_side", started)
    mined = project.mine(processes=2)
    pd.testing.assert_frame_equal(mined.listed, plain.listed)
    work = mined.scores / "processes" / "web"
    spec, second = read_json(work / "spec.json"), read_json(work / "rank=1.json")
    assert (spec["prefix"], spec["rank"], spec["world_size"]) == ("pool/web/", 0, 1)
    assert (second["rank"], second["world_size"]) == (1, 2)
    if started is None:
        assert "1 shards" in (work / "rank=1.log").read_text("utf-8")


def test_features_are_kept_beside_the_scores(project: Project, plain: Mined) -> None:
    mined = project.mine(features=True)
    feat = np.stack(mined.raw["feat"].to_list())
    assert feat.dtype == np.float16 and feat.shape == (WEB + 2, 2048)
    assert np.allclose(np.linalg.norm(feat.astype(np.float32), axis=1), 1, atol=1e-2)
    pd.testing.assert_frame_equal(mined.mined, plain.mined)


def test_features_of_the_protected_sets_are_compared_with_the_pools(
    project: Project, plain: Mined
) -> None:
    by_features = DEDUP | {"channels": ["bytes", "features"], "feature_min": 0.0}
    found = project.mine(features=True, deduplicate=by_features)
    guarded = identity(project.root).folder("guarded")
    assert {path.parent.name for path in guarded.glob("*/scores")} == {"train", "val"}
    assert set(plain.pairs["key"][plain.pairs["channel"] == "bytes"]) <= set(found.pairs["key"])
    assert "features" in set(found.pairs["channel"])
    with pytest.raises(ValueError, match="mining.features: true"):
        mining(deduplicate=by_features)


def by_hand(mined: Mined, k: int, gone: set[str], top_p: int = 1) -> list[tuple[int, int, str]]:
    """The list recomputed from the raw scores, an image at a time."""
    rows = [row for row in mined.raw.to_dict("records") if row["key"] not in gone]
    rows.sort(key=lambda row: (row["top_ids"][0], -int(row["score_q"]), row["key"]))
    first: dict[tuple[int, str], str] = {}
    for row in rows:
        first.setdefault((row["top_ids"][0], row["bytes_sha256"]), row["key"])
    rows = [row for row in rows if row["key"] in first.values()]
    chosen: dict[str, tuple[int, int, str]] = {}
    have = [0, 0]
    for place in range(top_p):
        ranked = []
        for row in rows:
            chance = np.exp(np.float64(row["top_logits"][place]) - row["lse"])
            ranked.append((int(row["top_ids"][place]), -round(float(chance) * 1e6), row["key"]))
        # The rows are in the order of their first class already.
        for label, _, key in sorted(ranked) if place else ranked:
            if key not in chosen and have[label] < k:
                have[label] += 1
                chosen[key] = (int(label), have[label], key)
    return sorted(chosen.values())


def listed(mined: pd.DataFrame) -> list[tuple[int, int, str]]:
    return [(m.label, m.rank, m.key) for m in mined.itertuples()]


def spoil(path: Path, kind: int) -> None:
    """Make an image unusable, in one of eleven ways."""
    whole = path.read_bytes()
    path.unlink()
    noise = np.random.default_rng(kind).bytes(len(whole))
    if kind == 0:
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == 1:
        path.write_bytes(b"")
    elif kind == 2:
        path.write_bytes(b"<html><body>not found</body></html>")
    elif kind == 3:
        path.write_bytes(noise)
    elif kind == 4:
        path.symlink_to(path.parent / "gone.png")
    elif kind == 5:
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    elif kind == 6:
        path.write_bytes(whole[:8] + noise)
    elif kind == 7:
        path.write_bytes(b"\xff\xd8\xff\xe0" + noise)
    elif kind == 8:  # 400 million pixels in its head
        path.write_bytes(whole[:16] + (20_000).to_bytes(4, "big") * 2 + whole[24:])
    elif kind == 9:
        os.mkfifo(path)
    else:
        path.symlink_to("/etc/hostname")


# Row M04 of docs/reliability.md.
def test_a_hundred_bad_images_are_named_and_none_is_mined(project: Project) -> None:
    """Fifty are bad when the pool is ingested, fifty go bad before they are scored."""
    web = sorted((project.root / "web" / "deep").glob("*.png"))
    for number in range(100):
        path = project.root / "web" / "bad" / f"{number:03d}.png"
        picture(path, 5000 + number)
        if number < 50:
            spoil(path, number % 11)
    lists = project.ingest()
    for number in range(50, 100):
        path = project.root / "web" / "bad" / f"{number:03d}.png"
        if number % 6:
            spoil(path, number % 11)
        elif number % 12:
            path.unlink()
        else:  # a good picture, but not the one that was ingested
            picture(path, 9000 + number)
    mined = project.mine_from(lists, audited=True, k=1000, max_bad=0.9)
    planted = {f"pool/web/bad/{number:03d}.png" for number in range(100)}
    at_ingestion = set(pd.read_csv(lists / "quarantine.csv")["key"])
    quarantine = identity(project.root).folder("quarantine")
    at_scoring = pd.read_csv(quarantine / "mining.csv")
    assert at_ingestion | set(at_scoring["key"]) == planted
    assert not at_ingestion & set(at_scoring["key"]) and len(at_scoring) == 50
    assert at_scoring["reason"].str.len().min() > 5

    assert not planted & {*mined.raw["key"], *mined.mined["key"], *mined.merged["key"]}
    assert not planted & set(mined.listed["path"])
    # All the files there are: taken, a copy of another, of a labelled image, or bad.
    assert mined.barred == {"pool/web/labelled before.png"}
    copies = {"pool/web/deep/again.png"}
    files = {f"pool/web/deep/{path.name}" for path in web} | mined.barred | planted
    assert files - copies == {*mined.mined["key"], *mined.barred, *planted}
    counts = mined.counts
    assert counts["n_listed"] == len(web) + 1 + 50
    assert counts["n_quarantined"] == 50 and counts["n_refused"] == 1
    assert counts["n_listed"] == counts["n_used"] + 50 + 1
    assert listed(mined.mined) == by_hand(mined, 1000, mined.barred)
    assert set(mined.merged["key"]) == {*mined.mined["key"], *mined.lists.frame("train")["key"]}


def test_too_many_bad_images_stop_the_run_until_more_are_allowed(project: Project) -> None:
    lists = project.ingest()
    for number in range(20):
        spoil(project.root / "web" / "deep" / f"{number:03d}.png", 1)
    # Counted batch by batch, of 16 images.
    with pytest.raises(DataError, match="16 of 62 images cannot be used, 6 may"):
        project.score(lists, max_bad=0.1)
    assert len(project.mine_from(lists, max_bad=0.4).raw) == 42


def test_target_total_reaches_the_list(usual: Project, plain: Mined) -> None:
    mined = usual.mine(k=None, target_total=21).mined
    assert 21 <= len(mined) <= 22
    assert listed(mined) == by_hand(plain, int(mined["rank"].max()), plain.barred)


def test_without_k_the_share_that_was_published_is_mined(usual: Project) -> None:
    assert default_target(WEB + 2, 2) == 17
    assert 17 <= len(usual.mine(k=None).mined) <= 18


def test_min_conf_reaches_the_list(usual: Project, plain: Mined) -> None:
    least = int(plain.raw["score_q"].median())
    mined = usual.mine(k=1000, min_conf=least / 1e6).mined
    assert mined["score_q"].min() >= least
    assert len(mined) < len(plain.raw) - 20
    low = set(plain.raw.loc[plain.raw["score_q"] < least, "key"])
    assert listed(mined) == by_hand(plain, 1000, plain.barred | low)


def test_top_p_fills_the_class_that_is_short(usual: Project, plain: Mined) -> None:
    mined = usual.mine(k=25, top_p=2).mined
    assert mined["label"].value_counts().tolist() == [25, 25]
    assert mined["key"].is_unique
    assert listed(mined) == by_hand(plain, 25, plain.barred | {"pool/web/deep/again.png"}, 2)


def test_diversity_reaches_the_list(usual: Project, plain: Mined) -> None:
    mined = usual.mine(k=1000, diversity=24).mined
    hashes = plain.raw.set_index("key")["phash64"]
    assert 2 <= len(mined) < 40
    for _, rows in mined.groupby("label"):
        values = [int(hashes[key]) for key in rows["key"]]
        apart = [(a ^ b).bit_count() for at, a in enumerate(values) for b in values[:at]]
        assert min(apart, default=64) > 24


def test_excluded_images_stay_out_and_are_counted(usual: Project, plain: Mined) -> None:
    out = plain.mined["key"].iloc[:3].tolist()
    lines = [out[0], out[1].removeprefix("pool/web/"), f"{out[2]} 0", "unknown.png"]
    (usual.root / "out.txt").write_text("\n".join(lines))
    mined = usual.mine(audited=True, exclude=["out.txt"])
    assert not mined.mined["key"].isin(out).any()
    assert mined.counts["excluded"] == 3 and mined.counts["n_refused"] == 4
    assert listed(mined.mined) == by_hand(plain, 8, plain.barred | set(out))
    with pytest.raises(DataError, match="mining.exclude: the list nowhere.txt does not exist"):
        usual.mine(exclude=["nowhere.txt"])
    (usual.root / "out.txt").write_text("")
    pd.testing.assert_frame_equal(usual.mine(exclude=["out.txt"]).mined, plain.mined)


def test_label_mode_zero_writes_label_0_for_what_was_mined(usual: Project, plain: Mined) -> None:
    mined = usual.mine(label_mode="zero")
    own = mined.lists.frame("train").set_index("key")["label"]
    lines = mined.listed.set_index("path")["label"]
    assert lines.index.tolist() == plain.listed["path"].tolist()
    assert lines[mined.mined["key"]].eq(0).all()
    assert (lines[own.index] == own).all()
    first = plain.listed.set_index("path")["label"]
    assert (first[plain.mined["key"]] == plain.mined["label"].to_numpy()).all()


def test_by_typicality_all_that_is_like_the_labelled_images_is_mined(project: Project) -> None:
    """Scores, hidden images and the labelled images themselves are measured by one reference."""
    lists = project.ingest()
    by_confidence = project.mine_from(lists, k=1000).raw
    typical = project.mine_from(lists, True, rank_by="typicality", k=None, min_conf=0.3)
    raw = typical.raw
    assert not np.array_equal(raw["score_q"], by_confidence["score_q"])
    assert [list(ids) for ids in raw["top_ids"]] == [list(ids) for ids in by_confidence["top_ids"]]
    taken = set(raw.loc[raw["score_q"] >= 300_000, "key"]) - typical.barred
    copies = len(taken) - len(typical.mined)
    assert 0 <= copies <= 2, "of images with the same bytes one is mined"
    assert set(typical.mined["key"]) <= taken
    assert typical.mined["score_q"].min() >= 300_000
    reference = project.run.folder("reference")
    assert (reference / "reference.safetensors").is_file()
    again = stamps(reference), stamps(typical.scores)
    project.mine_from(lists, True, rank_by="typicality", k=None, min_conf=0.5)
    assert (stamps(reference), stamps(typical.scores)) == again, (
        "another limit scores nothing again"
    )


def test_typicality_has_no_second_classes() -> None:
    with pytest.raises(ValueError, match=r"top_p 2 asks for second classes.*rank_by: confidence"):
        mining(rank_by="typicality", top_p=2)


def test_images_to_label_next_are_listed_and_their_files_put_by_guess(usual: Project) -> None:
    mined = usual.mine()
    run, teacher = usual.run, usual.run.folder("train_teacher")
    pairs = run.folder("mining")

    def choose(images: int) -> Path:
        params = LabelNextParams(images=images)
        return propose_images(run, params, mining(), teacher, mined.scores, pairs)

    folder = choose(8)
    listed = pd.read_csv(folder / "label_next.csv")
    assert listed.columns.tolist() == ["key", "guess", "probability", "doubt", "stands_for"]
    assert len(listed) == 8 and listed["key"].is_unique and not mined.barred & set(listed["key"])
    assert listed["stands_for"].sum() == mined.raw["bytes_sha256"].nunique() - len(mined.barred)
    index = mined.lists.frame("pool").set_index("key")
    copies = sorted((folder / "images").glob("*/*"))
    assert len(copies) == 8
    for copy in copies:
        row = listed.iloc[int(copy.name[:4]) - 1]
        assert copy.parent.name == row["guess"]
        assert (
            hashlib.sha256(copy.read_bytes()).hexdigest() == index.loc[row["key"], "bytes_sha256"]
        )
    with Image.open(folder / "label_next.png") as sheet:
        assert sheet.width > sheet.height
    # What a person moves is not the result's, and asking for more makes another.
    copies[0].unlink()
    assert choose(8) == folder and len([*(folder / "images").glob("*/*")]) == 7
    assert len(pd.read_csv(choose(9) / "label_next.csv")) == 9


def test_what_a_person_decided_of_mined_images_is_obeyed(usual: Project) -> None:
    """Removed: off the list. Kept: on it below min_conf. Relabelled: in train, not in the pool."""
    before = usual.mine()
    classes = before.lists.classes
    rows = before.mined.sort_values("score")
    low, gone, given = rows["key"].iloc[0], rows["key"].iloc[1], rows["key"].iloc[2]
    shown = {key: classes[label] for key, label in rows[["key", "label"]].to_numpy()}
    other = next(name for name in classes if name != shown[given])
    file = usual.run.folder("raw") / "review.csv"
    for key, word, label in ((low, "keep", ""), (gone, "remove", ""), (given, "relabel", other)):
        row = {"list": "mined", "key": key, "decision": word, "label": label, "shown": shown[key],
               "score": "0.5"}  # fmt: skip
        record_decision(file, row, Decision())
    after = usual.mine(min_conf=0.999)
    assert after.mined["key"].tolist() == [low]
    again = usual.mine()
    assert low in set(again.mined["key"]) and not {gone, given} & set(again.mined["key"])
    assert given not in set(again.lists.frame("pool")["key"])
    train = again.lists.frame("train").set_index("key")
    assert classes[train.loc[given, "label"]] == other


@pytest.mark.parametrize("features", [False, True])
def test_the_map_shows_each_fate_and_looks_again_only_where_no_features_are_kept(
    project: Project, features: bool, caplog: pytest.LogCaptureFixture
) -> None:
    lists, given = project.ingest(), {"features": features}
    mined = project.mine_from(lists, **given)
    run, teacher = project.run, project.run.folder("train_teacher")
    params, folder = mining(**given), run.folder("mining")
    caplog.clear()
    with caplog.at_level("INFO"):
        made = map_pool(run, params, lists, teacher, mined.scores, folder)
    points, facts = pd.read_csv(made / "map.csv"), read_json(made / "map.json")
    assert facts["all"]["mined"] == len(mined.mined) and facts["images"] == 30
    assert facts["all"]["removed"] == len(mined.barred) > 0
    shown = {str(kind): set(keys) for kind, keys in points.groupby("kind")["key"]}
    assert shown["mined"] <= set(mined.mined["key"]) and shown["removed"] == mined.barred
    for name in ("train", "val"):
        assert shown[name] and shown[name] <= set(mined.lists.frame(name)["key"])
    assert np.isfinite(points[["x", "y"]].to_numpy()).all() and len(points) <= 30
    kept = len(points) - len(shown["train"] | shown["val"]) if features else 0
    assert f"{len(points)} scored ({kept} of them earlier)" in caplog.text
    none = map_pool(run, mining(map_images=0), lists, teacher, mined.scores, folder)
    assert len(pd.read_csv(none / "map.csv")) == 0 and read_json(none / "map.json")["images"] == 0
