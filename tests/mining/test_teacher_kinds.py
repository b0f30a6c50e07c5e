"""Whatever ``models.build_from`` can build scores a pool, alone or in a mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from hgnetv2_pipeline.data import index, preprocess
from hgnetv2_pipeline.data.scan import folders
from hgnetv2_pipeline.mining.score import score_pool
from hgnetv2_pipeline.mining.score_spec import ScoreSpec
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.weights.load import save_weights

HOW = preprocess.Preprocess(resize_short=32, crop=32)
WIDTH = {"timm:resnet10t": 512, "timm:vit_tiny_patch16_224": 192}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    root = tmp_path_factory.mktemp("pool")
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
    index.write_index(root / "index.parquet", folders.scan_unlabelled(root).samples)
    return root


def spec_of(pool: Path, teachers: list[str], out: Path, **changes: Any) -> ScoreSpec:
    values: dict[str, Any] = {
        "index": pool / "index.parquet", "root": pool, "prefix": "", "teachers": teachers,
        "num_classes": 4, "out": out, "weights_root": pool, "preprocess": HOW.to_dict(),
        "shard_rows": 100, "batch_size": 4, "workers": 0, "features": True, "dtype": "float32",
        "device": "cpu", "max_bad": 0.0,
    }  # fmt: skip
    return ScoreSpec(**(values | changes))


def scored(
    pool: Path, teachers: list[str], out: Path, how: preprocess.Preprocess = HOW
) -> pd.DataFrame:
    score_pool(spec_of(pool, teachers, out, preprocess=how.to_dict()))
    return pd.read_parquet(out / "shard=00000.parquet")


def weights(pool: Path, variant: str) -> str:
    path = pool / f"{variant}.safetensors"
    if not path.is_file():
        save_weights(path, create_model(variant, 4), {"variant": variant})
    return path.name


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in (
    "hgnet_small", "hgnet_base", "b1", "b2", "b4", "b5", "b6")]  # fmt: skip


@pytest.mark.parametrize("variant", ["hgnet_tiny", "b3", *SLOW])
def test_every_network_of_ours_can_teach(pool: Path, tmp_path: Path, variant: str) -> None:
    rows = scored(pool, [weights(pool, variant)], tmp_path)
    assert len(rows) == 3 and np.stack(rows["feat"]).shape == (3, 2048)
    model = create_model(variant, 4)
    model.load_state_dict(load_file(pool / f"{variant}.safetensors"))
    pixels = np.stack([HOW(pool / f"{n}.png") for n in range(3)])
    with torch.inference_mode():
        chances = model.eval()(torch.from_numpy(pixels)).softmax(1).numpy()
    assert [ids[0] for ids in rows["top_ids"]] == chances.argmax(1).tolist()
    assert np.abs(rows["score_q"] - chances.max(1) * 1e6).max() < 50


@pytest.mark.parametrize("name", ["timm:resnet10t", "timm:vit_tiny_patch16_224"])
def test_models_of_timm_can_teach(pool: Path, tmp_path: Path, name: str) -> None:
    how = preprocess.Preprocess(resize_short=224, crop=224) if "224" in name else HOW
    rows = scored(pool, [name], tmp_path, how)
    assert np.stack(rows["feat"]).shape == (3, WIDTH[name])
    assert np.allclose(np.exp(np.stack(rows["top_logits"])).sum(axis=1), 1, atol=1e-5)


def test_a_mean_of_different_networks_has_the_features_of_all(pool: Path, tmp_path: Path) -> None:
    rows = scored(pool, [weights(pool, "b0"), "timm:resnet10t"], tmp_path)
    feat = np.stack(rows["feat"]).astype(np.float32)
    assert feat.shape == (3, 2048 + 512)
    assert np.allclose(np.linalg.norm(feat[:, :2048], axis=1), 1, atol=1e-2)
    assert np.allclose(np.linalg.norm(feat[:, 2048:], axis=1), 1, atol=1e-2)
