"""teacher_logits.source=clean: one answer per image, as the teacher sees it, in all its views."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_stored_logits import CLASSES, made, store_spec, teacher
from train_recipes import SSLD, recipe

from hgnetv2_pipeline.data import index
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.quarantine import Ledger
from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.input.augment import make_augment
from hgnetv2_pipeline.input.loader import train_batches
from hgnetv2_pipeline.input.teacher_logits import ReplayedView, TeacherLogits
from hgnetv2_pipeline.teacher.teacher import load_teacher
from hgnetv2_pipeline.training.config import RunSpec, TeacherConfig
from hgnetv2_pipeline.training.run import train_run
from hgnetv2_pipeline.weights.probes import build_trunk, fresh_probe, save_probe

__all__ = ["teacher"]  # a fixture
Job = Callable[..., RunSpec]


@pytest.fixture(scope="module")
def closer(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a probe that sees 64 pixels a side, twice what the students see."""
    torch.manual_seed(3)
    probe, _ = fresh_probe("simple", len(CLASSES))
    _, _, known = build_trunk("simple", pictures)
    path = tmp_path_factory.mktemp("closer") / "probe.safetensors"
    how = Preprocess.from_dict(known["preprocess"])
    save_probe(path, probe, trunk="simple", preprocess=how, classes=CLASSES)
    return path


@pytest.fixture(scope="module")
def clean(
    pictures: Path, teacher: Path, closer: Path, tmp_path_factory: pytest.TempPathFactory
) -> TeacherLogits:
    out = tmp_path_factory.mktemp("clean") / "logits"
    spec = store_spec(pictures, teacher, out, augment=None, views=1)
    both = TeacherConfig.model_validate(two(teacher, closer)["teacher"])
    return made(spec.model_copy(update={"teacher": both}))


def two(teacher: Path, closer: Path) -> dict[str, Any]:
    return {"teacher": {"members": [str(teacher), str(closer)], "bn": "eval"}}


def student(
    job: Job, name: str, members: dict[str, Any], store: TeacherLogits, **changes: Any
) -> RunSpec:
    spec = {**members, "teacher_logits": {"folder": store.folder, "check": 20, "clean": True}}
    return job(name, spec=spec, **{"loss": SSLD, **changes})


def test_each_network_answers_the_image_as_it_sees_it_in_mining(
    pictures: Path, teacher: Path, closer: Path, clean: TeacherLogits
) -> None:
    both = load_teacher(
        [str(teacher), str(closer)], classes=CLASSES, root=pictures, device=torch.device("cpu")
    )
    assert [member.preprocess.size for member in both.members] == [(32, 32), (64, 64)]
    samples = index.read_index(pictures / "train.parquet")
    for row, key in enumerate(samples["key"][:5]):
        seen = {
            how: torch.tensor(one.image(pictures / key)).permute(2, 0, 1)[None]
            for how, one in both.preprocesses.items()
        }
        asked = both(seen)[0]
        record = clean.read(row, 0)
        order = torch.from_numpy(record["ids"].astype(np.int64))
        stored = torch.from_numpy(record["logps"].astype(np.float32))
        # Of the largest value, with a store of float16: another batch rounds otherwise.
        assert torch.allclose(asked.log_softmax(0)[order], stored, rtol=2**-11, atol=1e-4)


def test_views_are_those_of_a_teacher_beside_it_and_the_answer_of_an_image_is_always_one(
    pictures: Path, clean: TeacherLogits
) -> None:
    samples = index.read_index(pictures / "train.parquet").iloc[3:15].reset_index(drop=True)
    view = make_augment(recipe().view())
    common: dict[str, Any] = {
        "seed": 0, "batch_size": 5, "start_step": 0, "steps": 12, "workers": 0
    }  # fmt: skip
    replay = ReplayedView(view, clean, clean.rows_of(samples), clean=True)
    shown = train_batches(samples, pictures, transform=replay, ledger=Ledger(12, 0.0), **common)
    online = train_batches(samples, pictures, transform=view, ledger=Ledger(12, 0.0), **common)
    answers: dict[str, list[Any]] = {}
    views: dict[str, set[bytes]] = {}
    for batch, same in zip(shown, online, strict=True):
        assert batch.keys == same.keys
        assert torch.equal(batch.images, same.images)
        assert batch.answers is not None
        for place, key in enumerate(batch.keys):
            answers.setdefault(key, []).append(batch.answers.logps[place].tolist())
            views.setdefault(key, set()).add(batch.images[place].numpy().tobytes())
    assert all(one == found[0] for found in answers.values() for one in found)
    assert all(len(found) == 5 for found in views.values())  # 60 places for 12 images


def test_a_student_learns_from_it(
    job: Job, teacher: Path, closer: Path, clean: TeacherLogits
) -> None:
    spec = student(job, "learns", two(teacher, closer), clean, steps=20, lr=5e-3)
    train_run(spec)
    assert read_json(spec.out / "result.json")["steps"] == 20
    assert (spec.out / "student.safetensors").is_file()


def test_answers_to_other_views_are_refused(
    job: Job, pictures: Path, teacher: Path, tmp_path: Path
) -> None:
    spec = store_spec(pictures, teacher, tmp_path / "logits")
    replayed = made(spec)
    members = {"teacher": spec.teacher.model_dump()}
    with pytest.raises(DataError, match="does not fit this run") as caught:
        train_run(student(job, "other", members, replayed))
    assert "\n" not in str(caught.value)
