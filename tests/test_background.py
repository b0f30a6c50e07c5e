"""One background for transparent pixels, from the index to every room that reads its images.

The same picture is there in four files that differ in the colours hidden below transparent pixels:
composited on white, every room sees one picture.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pandas as pd
import pytest
import torch
from PIL import Image

from hgnetv2_pipeline.data import index
from hgnetv2_pipeline.data.decode import Decoding, decode_image
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.quarantine import Ledger
from hgnetv2_pipeline.data.sample_rng import keyed_rng
from hgnetv2_pipeline.data.scan.folders import scan_folder_tree
from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.export.bundle import write_bundle
from hgnetv2_pipeline.deployment.export.gate import Validation
from hgnetv2_pipeline.deployment.export.kit_folder import KitPlan, write_kit
from hgnetv2_pipeline.deployment.export.precisions import Calibration
from hgnetv2_pipeline.deployment.inputs import expand_inputs
from hgnetv2_pipeline.deployment.kit import run as kit_run
from hgnetv2_pipeline.deployment.kit.plans import BatchProfile
from hgnetv2_pipeline.deployment.predict import predict_paths
from hgnetv2_pipeline.deployment.prediction_formats import prediction_sheet
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.input.augment import make_augment
from hgnetv2_pipeline.input.batches import SampleReader
from hgnetv2_pipeline.input.deferred_view import on_device
from hgnetv2_pipeline.input.lazy_image import LazyImage
from hgnetv2_pipeline.input.loader import eval_batches, train_batches, view_batches
from hgnetv2_pipeline.mining.duplicates.guarded_sets import gather_guarded_images
from hgnetv2_pipeline.mining.score import score_pool
from hgnetv2_pipeline.mining.score_spec import ScoreSpec
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.teacher.probing import fit_probe
from hgnetv2_pipeline.teacher.teacher import load_teacher
from hgnetv2_pipeline.training.stored_logits.replay import describe_origin
from hgnetv2_pipeline.weights.load import save_weights
from image_files import encoded, put

SIDE = 40
WHITE = (255, 255, 255)
HIDDEN = [(0, 0, 0), (255, 0, 255), (17, 201, 90), (255, 255, 255)]
CLASSES = ["a", "b"]
HOW = Preprocess(SIDE, 32)
ON_WHITE = Preprocess(SIDE, 32, background=WHITE)


def icon(hidden: tuple[int, int, int], turn: int = 0) -> bytes:
    y, x = np.mgrid[:SIDE, :SIDE]
    alpha = np.clip(420 - (np.abs(x - 20) + np.abs(y - 20)) ** 2, 0, 255).astype(np.uint8)
    colours = np.dstack([x * 6, y * 6, 255 - x * 3]).astype(np.uint8)
    colours[alpha == 0] = hidden
    return encoded(Image.fromarray(np.rot90(np.dstack([colours, alpha]), turn)))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures, a class each, in four files each."""
    return put(
        tmp_path_factory.mktemp("icons"),
        {
            f"{name}/{number}.png": icon(hidden, turn)
            for turn, name in enumerate(CLASSES)
            for number, hidden in enumerate(HIDDEN)
        },
    )


@pytest.fixture(scope="module")
def dropped(root: Path) -> pd.DataFrame:
    return scan_folder_tree(root, min_per_class=1).samples


@pytest.fixture(scope="module")
def white(dropped: pd.DataFrame) -> pd.DataFrame:
    return index.with_decoding(dropped, Decoding(background=WHITE))


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model("b0", 2).eval()


@pytest.fixture(scope="module")
def weights(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network in a folder, ``net.safetensors``, that says nothing of a background."""
    folder = tmp_path_factory.mktemp("weights")
    entries = {
        "format": "hgnetv2_pipeline/1", "variant": "b0", "num_classes": "2",
        "preprocess": json.dumps(HOW.to_dict()),
    }  # fmt: skip
    save_weights(folder / "net.safetensors", network, entries)
    return folder


def different(views: list[Any]) -> int:
    """How many of the four files of the first picture are seen as different ones."""
    return len({np.ascontiguousarray(view).tobytes() for view in views[: len(HIDDEN)]})


@pytest.mark.parametrize(
    ("name", "fast", "part"),
    [
        ("none", False, None), ("affine", False, None), ("published", False, None),
        ("published", True, None), ("published", False, "all"), ("published", True, "randaugment"),
    ],
)  # fmt: skip
def test_a_training_view_is_of_the_picture_on_its_background(
    root: Path, white: pd.DataFrame, dropped: pd.DataFrame, name: str, fast: bool, part: Any
) -> None:
    view: Any = make_augment({"name": name, "fast": fast, "image_size": 32})
    if part is not None:
        view = on_device(view, part, "cpu")

    def seen(samples: pd.DataFrame) -> list[npt.NDArray[np.uint8]]:
        source = SampleReader(samples, root)
        drawn = [view(source.image(row), keyed_rng(3, 0, "one key")) for row in range(4)]
        return [getattr(one, "pixels", getattr(one, "data", one)) for one in drawn]

    assert different(seen(white)) == 1
    # As if the file had been without transparency from the start.
    flat = LazyImage(encoded(Image.fromarray(SampleReader(white, root).image(0).pixels())))
    plain = view(flat, keyed_rng(3, 0, "one key"))
    assert np.array_equal(getattr(plain, "pixels", getattr(plain, "data", plain)), seen(white)[0])
    assert different(seen(dropped)) == len(HIDDEN)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"Exif\0\0junk"}])
def test_a_jpeg_takes_the_short_way_and_has_no_background(options: dict[str, Any]) -> None:
    y, x = np.mgrid[:70, :90]
    photo = Image.fromarray(np.dstack([x * 2, y * 3, x + y]).astype(np.uint8))
    content = encoded(photo, "JPEG", **options)
    plain, white = LazyImage(content), LazyImage(content, ON_WHITE.decoding)
    assert plain.plain_jpeg == white.plain_jpeg == content
    assert np.array_equal(plain.crop(3, 5, 40, 30), white.crop(3, 5, 40, 30))
    assert np.array_equal(white.pixels(), np.asarray(decode_image(content, ON_WHITE.decoding)))


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_read_the_background_from_the_index(
    root: Path, white: pd.DataFrame, dropped: pd.DataFrame, workers: int
) -> None:
    view = make_augment({"name": "none", "image_size": 32, "resize_short": SIDE})

    def trained(samples: pd.DataFrame) -> list[Any]:
        batches = train_batches(
            samples, root, transform=view, seed=0, batch_size=8, start_step=0, steps=1,
            workers=workers, ledger=Ledger(8, 0.0),
        )  # fmt: skip
        (batch,) = batches
        return [batch.images[batch.keys.index(key)].numpy() for key in samples["key"]]

    def asked(samples: pd.DataFrame) -> list[Any]:
        batches = view_batches(
            samples, root, view=view, seed=0, views=1, images=8, workers=workers,
            ledger=Ledger(8, 0.0),
        )  # fmt: skip
        return [image.numpy() for batch in batches for image in batch.images]

    for load in (trained, asked):
        assert different(load(white)) == 1
        assert different(load(dropped)) == len(HIDDEN)
        picture = load(white)[0].transpose(1, 2, 0)
        assert np.array_equal(picture, ON_WHITE.image(icon(HIDDEN[0])))


@pytest.mark.parametrize("fast", [False, True])
def test_evaluation_is_by_the_rule_of_the_model(
    root: Path, dropped: pd.DataFrame, fast: bool
) -> None:
    def seen(how: Preprocess) -> list[Any]:
        batches = eval_batches(
            dropped, root, preprocess=how, batch_size=8, workers=0, ledger=Ledger(8, 0.0),
            fast=fast,
        )  # fmt: skip
        return [image.numpy() for batch in batches for image in batch.images]

    assert different(seen(ON_WHITE)) == 1
    assert different(seen(HOW)) == len(HIDDEN)
    exact = ON_WHITE.image(icon(HIDDEN[0])).astype(int)
    assert np.abs(seen(ON_WHITE)[0].transpose(1, 2, 0) - exact).max() <= (2 if fast else 0)


@pytest.fixture
def score(root: Path, weights: Path, tmp_path: Path) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def call(samples: pd.DataFrame) -> pd.DataFrame:
        out = tmp_path / f"scores {len(list(tmp_path.iterdir()))}"
        score_pool(
            ScoreSpec(
                index=index.write_index(tmp_path / f"{out.name}.parquet", samples), root=root,
                prefix="", teachers=["net.safetensors"], num_classes=2, weights_root=weights,
                preprocess=None, out=out, shard_rows=5, batch_size=4, workers=0, features=True,
                dtype="float32", device="cpu", max_bad=0.0,
            )
        )  # fmt: skip
        shards = sorted(out.glob("shard=*.json"))
        rows = pd.concat([pd.read_parquet(path.with_suffix(".parquet")) for path in shards])
        return rows.assign(identity=json.loads(shards[0].read_text())["identity_sha256"])

    return call


def test_scores_and_hashes_of_the_pool_are_of_the_picture_on_its_background(
    score: Callable[[pd.DataFrame], pd.DataFrame], white: pd.DataFrame, dropped: pd.DataFrame
) -> None:
    on_white, plain = score(white), score(dropped)
    assert on_white["phash64"][:4].nunique() == 1 and different(list(on_white["top_logits"])) == 1
    assert different(list(plain["top_logits"])) == len(HIDDEN)
    assert set(on_white["identity"]).isdisjoint(plain["identity"]), "other pixels, other shards"


def test_pictures_that_are_compared_for_duplicates_are_on_their_background(
    root: Path, white: pd.DataFrame, dropped: pd.DataFrame
) -> None:
    for samples, expected in ((white, 1), (dropped, len(HIDDEN))):
        guarded = gather_guarded_images({"val": (samples, root)})
        assert different([guarded.read(row) for row in range(4)]) == expected


def test_a_teacher_sees_the_background_of_the_data_whatever_its_weights_say(
    root: Path, white: pd.DataFrame, dropped: pd.DataFrame, weights: Path
) -> None:
    def background(value: tuple[int, int, int] | None) -> Any:
        teacher = load_teacher(
            ["net.safetensors"], classes=2, root=weights, device=torch.device("cpu"),
            decoding=Decoding(background=value),
        )  # fmt: skip
        return teacher.members[0].preprocess.background, teacher.identity

    (on_white, white_identity), (plain, plain_identity) = background(WHITE), background(None)
    assert (on_white, plain) == (WHITE, None) and white_identity != plain_identity
    assert plain_identity[0]["preprocess"] == HOW.fingerprint
    for samples, expected in ((white, WHITE), (dropped, None)):
        found = fit_probe("simple", samples, root, classes=CLASSES, weights_root=weights)
        assert found.preprocess.background == expected


def test_stored_logits_are_of_one_background_and_older_ones_stay_what_they_are() -> None:
    view = make_augment({"name": "none", "image_size": 32})

    def made(background: tuple[int, int, int] | None) -> dict[str, Any]:
        return describe_origin(
            view,
            resized=None,
            decoding=Decoding(background=background),
            teacher={},
            classes=CLASSES,
        )

    assert "background" not in json.dumps(made(None))
    assert made(WHITE)["transform"] == made(None)["transform"] | {"background": [255, 255, 255]}


def answers(model: Path, root: Path) -> list[tuple[Any, ...]]:
    with load_engine(model, engine="ort") as engine:
        records = predict_paths(engine, root / "a", topk=2, batch_size=2)
    return [(tuple(one["class_ids"]), tuple(one["scores"])) for one in records]


def test_an_exported_model_answers_the_picture_on_its_background(
    root: Path, tmp_path: Path, network: torch.nn.Module
) -> None:
    for how, expected in ((ON_WHITE, 1), (HOW, len(HIDDEN))):
        folder = tmp_path / str(expected)
        write_bundle(network, folder, image_size=32, class_names=CLASSES, preprocess=how)
        assert len(set(answers(folder / "model.onnx", root))) == expected
        assert ModelCard.from_folder(folder).preprocess == how
        said = json.loads((folder / "preprocess.json").read_text())
        assert said.items() >= how.to_dict().items()
        rule = said["steps"]["transparency"]
        if how is HOW:
            assert "background" not in said and "dropped" in rule
        else:
            assert said["background"] == [255, 255, 255]
            assert "round((alpha * colour + (255 - alpha) * background) / 255)" in rule
            assert "before the orientation" in rule
    with load_engine(tmp_path / "1" / "model.onnx", engine="ort") as engine:
        todo = expand_inputs(root / "a")
        records = predict_paths(engine, root / "a", topk=1)
        sheet = prediction_sheet(todo, records, columns=4, decoding=engine.preprocess.decoding)
    cells = np.asarray(sheet)[2:98].reshape(96, -1, 3)
    assert different([cells[:, 2 + 98 * at : 98 + 98 * at] for at in range(4)]) == 1


def test_a_kit_holds_pictures_on_their_background(
    root: Path, dropped: pd.DataFrame, tmp_path: Path, network: torch.nn.Module
) -> None:
    def batches() -> Any:
        for batch in eval_batches(
            dropped, root, preprocess=ON_WHITE, batch_size=8, workers=0, ledger=Ledger(8, 0.0)
        ):
            yield np.ascontiguousarray(batch.images.permute(0, 2, 3, 1)), batch.labels.numpy()

    source = Validation(batches, "8 icons")
    plan = KitPlan(
        labs=("clip",),
        precisions=("fp32",),
        profile=BatchProfile(1, 1, 4),
        batch_sizes=(1,),
        images=8,
    )
    write_kit(
        network, tmp_path, plan, model_name="x", class_names=CLASSES,
        preprocess=ON_WHITE, validation=source, packed=source, metadata={},
        calibration=Calibration(lambda: (pixels for pixels, _ in batches()), "the same"),
    )  # fmt: skip
    packed = np.load(tmp_path / "validation.npz")
    assert different(list(packed["images"])) == different(list(packed["logits"])) == 1
    kit = json.loads((tmp_path / "kit.json").read_text())
    assert kit["preprocess"] == ON_WHITE.to_dict()
    session = onnxruntime.InferenceSession(str(tmp_path / kit["graphs"][0]["file"]))
    found = kit_run.check(lambda images: session.run(None, {"images": images})[0], tmp_path, kit)
    assert found["same_top1"] == found["n"] == 8


def test_indexes_of_two_settings_are_not_mixed(
    root: Path, white: pd.DataFrame, dropped: pd.DataFrame
) -> None:
    with pytest.raises(DataError, match="data.alpha"):
        SampleReader(
            pd.concat(
                [white[:2], index.with_decoding(dropped[2:], Decoding(background=(0, 0, 0)))]
            ),
            root,
        )
