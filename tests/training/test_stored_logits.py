"""Stored teacher logits: the same training as with the teacher beside it, and no other data."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from train_recipes import CLASSES, LABELS, SSLD, recipe

from hgnetv2_pipeline.data import index
from hgnetv2_pipeline.data.decode import Decoding
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.quarantine import Ledger
from hgnetv2_pipeline.data.sample_rng import keyed_rng
from hgnetv2_pipeline.data.scan import folders
from hgnetv2_pipeline.durable import read_json, write_json
from hgnetv2_pipeline.errors import DataError, Interrupted, ParameterError
from hgnetv2_pipeline.input import lazy_image, loader
from hgnetv2_pipeline.input.augment import make_augment
from hgnetv2_pipeline.input.batches import Answers
from hgnetv2_pipeline.input.loader import train_batches
from hgnetv2_pipeline.input.teacher_logits import (
    ReplayedView,
    TeacherLogits,
    describe_view,
    record_dtype,
)
from hgnetv2_pipeline.processes.specs import parse
from hgnetv2_pipeline.training import losses as functions
from hgnetv2_pipeline.training.config import RunSpec, StoreSpec
from hgnetv2_pipeline.training.objectives import DistillationObjective, logits_of_answers
from hgnetv2_pipeline.training.prepare import build_teacher
from hgnetv2_pipeline.training.run import train_run
from hgnetv2_pipeline.training.stored_logits import make
from hgnetv2_pipeline.training.stored_logits.make import (
    seal_teacher_logits,
    store_in_processes,
    store_teacher_logits,
)
from hgnetv2_pipeline.training.stored_logits.replay import answer, as_floats
from hgnetv2_pipeline.weights.load import read_metadata

VIEWS = 5
Job = Callable[..., RunSpec]


@pytest.fixture(scope="module")
def teacher(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trained teacher."""
    from train_recipes import make_job

    folder = tmp_path_factory.mktemp("teacher")
    train_run(make_job(pictures, folder, "teacher", loss=LABELS))
    return folder / "teacher"


def store_spec(pictures: Path, teacher: Path, out: Path, **changes: Any) -> StoreSpec:
    values: dict[str, Any] = {
        "classes": CLASSES,
        "samples": pictures / "train.parquet",
        "samples_root": pictures,
        "root": teacher.parent,
        "teacher": {"members": [str(teacher)], "bn": "eval"},
        "augment": recipe().view(),
        "fit": None,
        "resized": None,
        "views": VIEWS,
        "topk": 10,
        "seed": 11,
        "amp": "off",
        "batch_size": 16,
        "shard_images": 8,
        "workers": 0,
        "threads": 1,
        "channels_last": True,
        "max_bad": 0.0,
        "earlier": [],
        "out": out,
        "device": "cpu",
        "rank": 0,
        "world_size": 1,
    }
    return parse(StoreSpec, values | changes, where="spec")


def made(spec: StoreSpec) -> TeacherLogits:
    store_teacher_logits(spec)
    return seal_teacher_logits(spec)


@pytest.fixture(scope="module")
def store(pictures: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> TeacherLogits:
    return made(store_spec(pictures, teacher, tmp_path_factory.mktemp("store") / "logits"))


def taught(job: Job, name: str, teacher: Path, logits: Path | None, **changes: Any) -> RunSpec:
    stored = None if logits is None else {"folder": logits, "check": 20, "clean": False}
    spec = {
        "teacher": {"members": [str(teacher)], "bn": "eval"},
        "teacher_logits": stored,
        **changes.pop("spec", {}),
    }
    return job(name, spec=spec, **{"loss": SSLD, **changes})


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    "loss",
    [SSLD, {**SSLD, "name": "kl", "temperature": 2.0}, {**SSLD, "name": "skl"}],
    ids=lambda loss: str(loss["name"]),
)
def test_at_each_of_20_steps_the_loss_is_that_with_the_teacher_beside_it(
    job: Job,
    teacher: Path,
    store: TeacherLogits,
    loss: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With K = classes, asked at every step of the same student and the same images.

    Two whole runs would not do: so small a network is chaotic, and the last bit of a logit, rounded
    otherwise in another batch, turns a ReLU and moves the loss of step 20.
    """
    spec = taught(job, "stored", teacher, store.folder, loss=loss, steps=20, lr=5e-3)
    assert spec.teacher is not None
    beside, _ = build_teacher(
        spec.teacher, classes=spec.classes, root=spec.root, preprocess=Preprocess(),
        channels_last=spec.config.channels_last, device=torch.device("cpu"),
    )  # fmt: skip
    stored: list[float] = []
    online: list[float] = []
    call = DistillationObjective.__call__

    def both(
        self: DistillationObjective, student: Any, images: Any, labels: Any, answers: Any = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        assert self.teacher is None
        same = DistillationObjective(self.view, beside, self.loss)
        with torch.no_grad():
            online.append(float(call(same, copy.deepcopy(student), images, labels)[0]))
        found = call(self, student, images, labels, answers)
        stored.append(float(found[0]))
        return found

    monkeypatch.setattr(DistillationObjective, "__call__", both)
    train_run(spec)
    assert len(stored) == len(online) == 20
    # Measured 8e-7; float16, in which the answers are kept, could explain 1e-3.
    assert np.abs(np.subtract(stored, online)).max() <= 1e-4
    assert max(stored) - min(stored) > 0.1  # it is a curve


@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_batch_shows_the_stored_views_byte_for_byte(
    pictures: Path, store: TeacherLogits, workers: int
) -> None:
    samples = index.read_index(pictures / "train.parquet").iloc[3:15].reset_index(drop=True)
    view = make_augment(recipe().view())
    batches = train_batches(
        samples,
        pictures,
        transform=ReplayedView(view, store, store.rows_of(samples)),
        seed=0,
        batch_size=5,
        start_step=0,
        steps=15,
        workers=workers,
        ledger=Ledger(len(samples), 0.0),
    )
    seen = set()
    for batch in batches:
        assert batch.answers is not None
        for place, key in enumerate(batch.keys):
            number = (batch.step * 5 + place) // len(samples) % VIEWS
            picture = lazy_image.LazyImage((pictures / key).read_bytes())
            pixels = view(picture, keyed_rng(store.seed, number, key))
            assert np.array_equal(batch.images[place].permute(1, 2, 0).numpy(), pixels)
            row = int(index.read_index(pictures / "train.parquet")["key"].eq(key).idxmax())
            record = store.read(row, number)
            assert batch.answers.ids[place].tolist() == record["ids"].tolist()
            assert batch.answers.logps[place].tolist() == record["logps"].tolist()
            seen.add((key, number))
    assert len(seen) == 12 * VIEWS


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"vertical_flip": 0.5, "quarter_turns": True, "rotation": 9.0, "jitter": 0.4, "grey": 0.5},
    ],
    ids=["published", "more"],
)
def test_the_pass_decodes_once_and_shows_what_the_loader_shows(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    """A photograph as JPEG: the views of the pass are cut from one decode, the loader's are not."""
    rng = np.random.default_rng(1)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    for number in range(4):
        name = tmp_path / f"{number}.jpg"
        small.resize((90 + number, 70), Image.Resampling.BICUBIC).save(name, quality=80)
    samples = folders.scan_unlabelled(tmp_path).samples
    view = make_augment({"name": "published", "image_size": 32, **more})
    shown = list(
        loader.view_batches(
            samples, tmp_path, view=view, seed=2, views=3, images=3, workers=0,
            ledger=Ledger(4, 0.0),
        )
    )  # fmt: skip
    assert [len(batch.images) for batch in shown] == [9, 9]
    found = torch.cat([batch.images for batch in shown])
    for row, key in enumerate(samples["key"]):
        for number in range(3):
            picture = lazy_image.LazyImage((tmp_path / samples["path"][row]).read_bytes())
            pixels = view(picture, keyed_rng(2, number, key))
            assert np.array_equal(found[3 * row + number].permute(1, 2, 0).numpy(), pixels)


def asked_to_stop(spec: StoreSpec, patch: pytest.MonkeyPatch) -> None:
    """SIGTERM while the first shard is answered."""
    answer = make.answer

    def stop_then_answer(*given: Any, **more: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return answer(*given, **more)

    patch.setattr(make, "answer", stop_then_answer)
    with pytest.raises(Interrupted):
        store_teacher_logits(spec)


def killed(spec: StoreSpec, patch: pytest.MonkeyPatch) -> None:
    """SIGKILL while the first shard is written, half of it on disk."""

    def write_half(file: Any, *_: Any, **__: Any) -> None:
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        np.save = write_half
        try:
            store_teacher_logits(spec)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert list((spec.out / "shards").glob(".*.tmp"))


@pytest.mark.parametrize("ended", [asked_to_stop, killed])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_shards_do_not_depend_on_processes_nor_on_a_stop(
    pictures: Path,
    teacher: Path,
    store: TeacherLogits,
    tmp_path: Path,
    world_size: int,
    ended: Callable[[StoreSpec, pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three shards; the first process ends in its first one and is started again."""
    specs = [
        store_spec(pictures, teacher, tmp_path / "logits", rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    with monkeypatch.context() as patch:
        ended(specs[0], patch)
    with pytest.raises(DataError, match=r"3 of 3 shards .* run it again"):
        seal_teacher_logits(specs[0])
    for spec in reversed(specs):
        store_teacher_logits(spec)
    seal_teacher_logits(specs[-1])
    assert files(tmp_path / "logits") == files(store.folder)
    # What is finished is not made again.
    assert store_teacher_logits(specs[0])["shards_reused"] == len(range(0, 3, world_size))


def test_several_processes_on_their_specifications_make_the_store_of_one(
    pictures: Path,
    teacher: Path,
    store: TeacherLogits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One after the other in this process, which knows the variant of the tests."""

    def in_turn(module: str, spec_files: list[Path], **how: Any) -> None:
        assert (module, how["jobs"], how["threads"]) == (make.__name__, 2, 1)
        assert how["logs"] == out / "logs"
        for path in spec_files:
            make._run(path)

    monkeypatch.setattr("hgnetv2_pipeline.processes.specs.run_side_by_side", in_turn)
    out = tmp_path / "logits"
    spec = store_spec(pictures, teacher, out, world_size=2)
    store_in_processes(spec)
    assert files(seal_teacher_logits(spec).folder / "shards") == files(store.folder / "shards")
    assert sorted(path.name for path in (out / "specs").iterdir()) == ["rank=0.json", "rank=1.json"]


def test_another_list_takes_over_what_was_answered_and_asks_for_the_rest(
    pictures: Path,
    teacher: Path,
    store: TeacherLogits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The earlier store knows 11 of 21 images, one of them with other bytes."""
    frame = index.read_index(pictures / "train.parquet")
    first = frame.iloc[::2].copy()
    first.loc[2, "length"] += 1
    index.write_index(tmp_path / "first.parquet", first)
    older = store_spec(pictures, teacher, tmp_path / "older", samples=tmp_path / "first.parquet")
    made(older)
    others = store_spec(pictures, teacher, tmp_path / "others", seed=5)
    made(others)
    # What was damaged since is not believed.
    bad = tmp_path / "bad"
    shutil.copytree(store.folder, bad)
    other_answers(bad)
    asked = []
    answer = make.answer
    monkeypatch.setattr(make, "answer", lambda *a, **k: asked.append(len(a[1])) or answer(*a, **k))
    spec = store_spec(
        pictures, teacher, tmp_path / "new", earlier=[others.out, bad, older.out], batch_size=VIEWS
    )
    made(spec)
    assert asked == [VIEWS] * 11
    for row in range(21):
        for field in ("ids", "logps", "lse"):
            known, found = (one.answers_to(row)[field] for one in (store, TeacherLogits(spec.out)))
            # Answers from batches of 5 and of 15 views differ in the last bit.
            np.testing.assert_allclose(found.astype(float), known.astype(float), atol=2e-6)


def test_a_store_in_the_layout_of_the_first_version_is_taken_as_it_is(
    pictures: Path, teacher: Path, store: TeacherLogits, tmp_path: Path
) -> None:
    """Written here with hashlib and json, as the version that had its own shards wrote it."""
    known = json.loads((store.folder / "store.json").read_text())
    made = {name: known[name] for name in known if name not in ("images", "shard_images", "shards")}
    listed = index.read_index(pictures / "train.parquet")
    spec = store_spec(pictures, teacher, tmp_path / "logits")
    (spec.out / "shards").mkdir(parents=True)
    for number, first in enumerate(range(0, len(listed), 8)):
        rows = listed.iloc[first : first + 8]
        images = [[row.key, str(row.length), row.bytes_sha256] for row in rows.itertuples()]
        of = {name: value for name, value in made.items() if name != "format"}
        text = json.dumps(
            ["hgnetv2_pipeline/teacher_logits/1", of, images],
            sort_keys=True, separators=(",", ":"), ensure_ascii=False,
        )  # fmt: skip
        name = f"shards/shard={number:05d}"
        content = (store.folder / f"{name}.npy").read_bytes()
        (spec.out / f"{name}.npy").write_bytes(content)
        manifest = {
            "identity": hashlib.sha256(text.encode()).hexdigest(),
            "images": len(rows),
            "quarantined": [],
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False)
        (spec.out / f"{name}.json").write_text(text + "\n")
    written = files(spec.out)
    assert store_teacher_logits(spec)["shards_reused"] == 3
    assert files(spec.out) == written
    seal_teacher_logits(spec)
    assert files(spec.out) == files(store.folder), "today's are the same, byte for byte"


def test_a_damaged_shard_is_made_again(
    pictures: Path, teacher: Path, store: TeacherLogits, tmp_path: Path
) -> None:
    spec = store_spec(pictures, teacher, tmp_path / "logits")
    made(spec)
    path = spec.out / "shards" / "shard=00001.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert store_teacher_logits(spec)["shards_reused"] == 2
    assert files(spec.out) == files(store.folder)


def other_decoder(folder: Path) -> None:
    values = read_json(folder / "store.json")
    values["decode"]["Pillow"] = "1.0"
    write_json(folder / "store.json", values)


def other_answers(folder: Path) -> None:
    """Logits moved by 0.02, sizes and all else intact."""
    for path in (folder / "shards").glob("*.npy"):
        records = np.load(path)
        records["lse"] += 0.02
        np.save(path, records)


def cut_short(folder: Path) -> None:
    path = folder / "shards" / "shard=00000.npy"
    path.write_bytes(path.read_bytes()[:-40])


def unfinished(folder: Path) -> None:
    (folder / "store.json").unlink()


@pytest.mark.parametrize(
    ("damage", "changes", "said"),
    [
        (None, {"augment": {"name": "affine", "degrees": 3.0}}, r"transform.degrees 15.0 -> 3.0"),
        (None, {"image_size": 64, "resize_short": 64}, r"transform.base.crop 32 -> 64"),
        (other_decoder, {}, r"decode.Pillow '1.0' -> '\d"),
        (None, {"spec": {"teacher": "other"}}, r"teacher.teacher 0 '\w+' -> '\w+'"),
        (None, {"spec": {"classes": ["red", "green"]}}, r"knows other classes|classes.sha256"),
        (None, {"spec": {"train": "longer"}}, r"1 of 22 images have no stored .* is val/00.png"),
        (None, {"spec": {"train": "changed"}}, r"1 images are not the files .* train/04.png"),
        (other_answers, {}, r"of 20 answers asked for again, a logit differs by 0.0"),
        (cut_short, {}, r"shard=00000.npy is missing or cut short"),
        (unfinished, {}, r"no finished teacher logits: kedro run --pipeline ssld_stage1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_that_helps(
    job: Job,
    pictures: Path,
    teacher: Path,
    store: TeacherLogits,
    tmp_path: Path,
    damage: Callable[[Path], None] | None,
    changes: dict[str, Any],
    said: str,
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(store.folder, folder)
    if damage is not None:
        damage(folder)
    named = dict(changes.get("spec", {}))
    if named.get("teacher") == "other":
        named["teacher"] = {"members": ["scratch:nano"], "bn": "eval"}
    if "train" in named:
        named["train"] = other_list(pictures, tmp_path, named["train"])
    spec = taught(job, "student", teacher, folder, **{**changes, "spec": named})
    with pytest.raises(ValueError, match=said) as caught:
        train_run(spec)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code in (3, 4)  # type: ignore[attr-defined]


def other_list(pictures: Path, folder: Path, which: str) -> Path:
    import pandas as pd

    frame = index.read_index(pictures / "train.parquet")
    if which == "longer":
        frame = pd.concat([frame, index.read_index(pictures / "val.parquet").iloc[:1]])
    else:
        frame.loc[4, "length"] += 1
    return index.write_index(folder / "other.parquet", frame)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher": {"members": ["x"], "bn": "batch"}}, "train_teacher.bn=eval"),
        ({"teacher": None, "config": recipe()}, "name it"),
        (
            {"config": recipe(loss=SSLD, augment={"name": "published"},
                              input={"fast": False, "device": "all", "resized": None})},
            "set input.device to none",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_stored_is_refused(
    job: Job, teacher: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    spec = taught(job, "student", teacher, tmp_path)
    with pytest.raises(ParameterError, match=said):
        parse(RunSpec, spec.model_dump() | changes, where="spec")


def test_an_image_that_no_teacher_could_read_is_quarantined_by_both(
    job: Job, pictures: Path, teacher: Path, tmp_path: Path
) -> None:
    root = tmp_path / "images"
    shutil.copytree(pictures, root)
    good = (root / "train/05.png").read_bytes()
    (root / "train/05.png").write_bytes(good[: len(good) // 2])
    spec = store_spec(pictures, teacher, tmp_path / "logits", samples_root=root, max_bad=0.1)
    assert store_teacher_logits(spec)["quarantined"] == 1
    seal_teacher_logits(spec)
    manifest = read_json(spec.out / "shards" / "shard=00000.json")
    assert [key for key, _ in manifest["quarantined"]] == ["train/05.png"]
    # The file is whole for the student, and still has no answer.
    (root / "train/05.png").write_bytes(good)
    run = taught(job, "student", teacher, spec.out, max_bad=0.1, spec={"train_root": root})
    done = train_run(run)
    assert done.metrics["n_quarantined"] == 1
    assert "no stored answer" in (run.out / "quarantine.csv").read_text()
    assert done.metrics["sources"]["teacher_logits"]


@pytest.mark.parametrize("name", ["soft_cross_entropy", "symmetric_kl", "kl_divergence", "dist"])
def test_with_all_classes_kept_every_loss_is_the_online_one(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    student, online = torch.randn(2, 9, 7, generator=generator) * 3
    values, ids = online.log_softmax(dim=1).topk(7)
    loss = getattr(functions, name)
    found = loss(student, logits_of_answers(Answers(ids, values), 7))
    torch.testing.assert_close(found, loss(student, online), atol=1e-6, rtol=1e-6)


def test_k_best_keep_their_probabilities_and_the_others_share_the_rest() -> None:
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)) * 4
    exact = logits.log_softmax(dim=1)
    values, ids = exact.topk(10, dim=1)
    found = logits_of_answers(Answers(ids, values.half()), 40).softmax(dim=1)
    torch.testing.assert_close(found.gather(1, ids), values.exp(), atol=1e-3, rtol=1e-3)
    tail = found.scatter(1, ids, 0).sum(dim=1)
    torch.testing.assert_close(tail, 1 - values.exp().sum(dim=1), atol=1e-3, rtol=0)
    rest = found.scatter(1, ids, -1)
    assert all(len(set(row[row >= 0].tolist())) == 1 for row in rest)
    # A teacher that is sure leaves no tail, and no loss becomes infinite or NaN.
    sure = logits_of_answers(Answers(ids[:, :2], torch.tensor([[0.0, -30.0]] * 6).half()), 40)
    for loss in (functions.soft_cross_entropy, functions.symmetric_kl, functions.kl_divergence,
                 functions.dist):  # fmt: skip
        assert torch.isfinite(loss(logits, sure))


@pytest.mark.parametrize(("classes", "size"), [(1000, 44), (65_536, 44), (65_537, 64)])
def test_a_record_of_ten_classes_has_44_bytes(classes: int, size: int) -> None:
    assert record_dtype(classes, 10).itemsize == size


def test_the_store_says_how_it_was_made(store: TeacherLogits) -> None:
    values = json.loads((store.folder / "store.json").read_text())
    assert values["transform"]["name"] == "AffineView"
    assert set(values["decode"]) >= {"Pillow", "libjpeg"}
    assert (values["views"], values["topk"], values["seed"]) == (VIEWS, 2, 11)
    assert [shard["images"] for shard in values["shards"]] == [8, 8, 5]


def test_what_float16_cannot_say_is_stored_as_very_unlikely_not_as_never() -> None:
    teacher = lambda images: torch.tensor([[0.0, -1e5, 2.0]]).expand(len(images), -1)  # noqa: E731
    records = answer(
        teacher, torch.zeros(2, 3, 4, 4, dtype=torch.uint8), topk=3, amp="off",
        device=torch.device("cpu"),
    )  # fmt: skip
    assert records["ids"].tolist() == [[2, 0, 1]] * 2
    assert records["logps"][:, 2].tolist() == [float(np.float16(-6e4))] * 2


def test_a_store_travels_to_a_worker_without_its_records(store: TeacherLogits) -> None:
    assert store.read(3, 1)["logps"].tolist() == store.read(3, 1)["logps"].tolist()
    assert b"memmap" not in pickle.dumps(store)
    # A copy goes the same way, and opens the shards again.
    assert copy.deepcopy(store).read(3, 1) == store.read(3, 1)


@pytest.mark.parametrize("classes", [2, 3, 5, 9, 10, 1000])
def test_records_of_any_number_of_classes_become_tensors(classes: int) -> None:
    records = np.zeros(4, record_dtype(classes, min(classes, 10)))
    records["lse"], records["logps"] = [1, 2, 3, 4], -0.5
    assert as_floats(records, "lse").tolist() == [1, 2, 3, 4]
    assert (as_floats(records, "logps") == -0.5).all()


def see_through(pictures: Path, folder: Path) -> tuple[Path, Path]:
    """The training images with a transparent corner, and their indexes: alpha dropped, on white."""
    samples = index.read_index(pictures / "train.parquet")
    for path in samples["path"]:
        image = Image.open(pictures / path).convert("RGBA")
        image.paste((0, 0, 0, 0), (0, 0, 16, 16))
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / path)
    (folder / "train_list.txt").write_bytes((pictures / "train_list.txt").read_bytes())
    scanned = folders.scan_list(folder / "train_list.txt", folder).samples
    white = index.with_decoding(scanned, Decoding(background=(255, 255, 255)))
    return (
        index.write_index(folder / "train.parquet", scanned),
        index.write_index(folder / "white.parquet", white),
    )


def test_answers_and_weights_are_of_the_background_of_the_lists(
    pictures: Path, teacher: Path, job: Job, tmp_path: Path
) -> None:
    plain, white = see_through(pictures, tmp_path / "icons")
    of = {
        path: made(
            store_spec(
                pictures, teacher, tmp_path / path.stem, samples=path, samples_root=path.parent
            )
        )
        for path in (plain, white)
    }
    assert "background" not in of[plain].made["transform"]
    assert of[white].made["transform"] == of[plain].made["transform"] | {
        "background": [255, 255, 255]
    }
    assert not np.array_equal(of[plain].read(0, 0)["logps"], of[white].read(0, 0)["logps"])
    for path, background in ((plain, None), (white, [255, 255, 255])):
        spec = {"train": path, "train_root": path.parent}
        run = taught(job, f"run on {path.stem}", teacher, of[path].folder, spec=spec)
        metadata = read_metadata(train_run(run).student)
        assert json.loads(metadata["preprocess"]).get("background") == background
    other = taught(job, "mixed", teacher, of[plain].folder, spec={**spec})
    with pytest.raises(DataError, match=r"does not fit this run.*background"):
        train_run(other)


def test_stores_of_before_are_known_by_the_view_that_they_were_made_of() -> None:
    """What ``store.json`` said of a view before there were further changes, written down here."""
    view = make_augment({"name": "published", "image_size": 32, "box": "torchvision"})
    operations = {
        "magnitude": 7.0, "magnitude_std": 0.5, "layers": 2, "probability": 0.5,
        "increasing": True, "fill": (124, 116, 104),
    }  # fmt: skip
    before = {
        "name": "PublishedView", "image_size": 32, "box": "torchvision", "scale": (0.08, 1.0),
        "ratio": (3 / 4, 4 / 3), "mirror": 0.5, "randaugment": operations,
        "interpolation": "bicubic", "fast": False, "resized": None,
    }  # fmt: skip
    assert describe_view(view, resized=None) == before
    more = make_augment({"name": "published", "image_size": 32, "box": "torchvision", "grey": 0.1})
    assert describe_view(more, resized=None)["further"]["grey"] == 0.1
