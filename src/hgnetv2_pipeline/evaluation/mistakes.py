"""The wrong answers that a model was surest of, and what may explain each.

Beside a mistake is where in the image the evidence for the wrong class was (``activation_maps``),
and the training image that is nearest to it in the network's own embedding: a picture that was
given another label, or a look-alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

    from hgnetv2_pipeline.data.preprocess import Preprocess
    from hgnetv2_pipeline.evaluation.activation_maps import ActivationMaps

SHOWN = 24


def confident_mistakes(rows: pd.DataFrame, most: int = SHOWN) -> pd.DataFrame:
    """The wrong answers with the highest probability, one per image, the surest first.

    Args:
        rows: of an evaluation, one per image, of one label or of several.

    Returns:
        ``key``; ``labels`` (numbers of the true classes); ``about`` (the class that was wrong);
        ``said`` (whether that class was answered; False: an image of it was missed); ``score``
        (its probability); ``sure`` (the probability given to what is wrong, by which they are
        ordered).
    """
    import pandas as pd

    if "labels" in rows.columns:
        found = list(_of_several_labels(rows))
    else:
        wrong = rows[~rows["correct"].astype(bool)]
        found = [
            (row["key"], [int(row["label"])], int(row["pred"]), True, float(row["top1_prob"]))
            for row in wrong.to_dict("records")
        ]
    frame = pd.DataFrame(found, columns=["key", "labels", "about", "said", "score"])
    frame["sure"] = np.where(frame["said"].astype(bool), frame["score"], 1 - frame["score"])
    return frame.sort_values(["sure", "key"], ascending=[False, True], ignore_index=True)[:most]


def _of_several_labels(rows: pd.DataFrame) -> Iterator[tuple[str, list[int], int, bool, float]]:
    """Of each image that is not wholly right the class that is most wrong."""
    for row in rows[~rows["correct"].astype(bool)].to_dict("records"):
        probabilities = np.asarray(row["probs"], dtype=np.float64)
        numbers = np.arange(len(probabilities))
        truth, said = np.isin(numbers, row["labels"]), np.isin(numbers, row["pred"])
        sure = np.where(said, probabilities, 1 - probabilities)
        about = int(np.argmax(np.where(truth == said, -1.0, sure)))
        labels = [int(each) for each in row["labels"]]
        yield row["key"], labels, about, bool(said[about]), float(probabilities[about])


@dataclass(frozen=True)
class SeenImages:
    """Images as a network saw them: ``keys``; ``views``, uint8 [N, H, W, 3]; ``embeddings``,
    float32 [N, D] of length 1, None of a network that has none.
    """

    keys: list[str]
    views: NDArray[np.uint8]
    embeddings: NDArray[np.float32] | None


class Explainer:
    """A network that says what it saw in images.

    Args:
        network: a torch module; what it is asked for beyond logits it may not have.
        preprocess: its preprocessing; ``fast`` as in ``evaluate_samples``.
        device: where the network is.
        workers: processes that decode.
    """

    def __init__(
        self, network: Any, preprocess: Preprocess, *, device: str, workers: int, fast: bool = False
    ) -> None:
        self._network, self._preprocess, self._device = network.eval(), preprocess, device
        self._workers, self._fast = workers, fast

    def look(
        self, samples: pd.DataFrame, root: Path, batch_size: int, *, views: bool
    ) -> SeenImages:
        """Embeddings of ``samples``, and with ``views`` their pixels; unreadable ones left out."""
        import torch

        from hgnetv2_pipeline.data.quarantine import Ledger
        from hgnetv2_pipeline.input.loader import eval_batches
        from hgnetv2_pipeline.input.workers import watch_workers

        keys: list[str] = []
        pixels, rows = [np.zeros((0, 1, 1, 3), np.uint8)], []
        batches = eval_batches(
            samples, root, preprocess=self._preprocess, batch_size=batch_size,
            workers=self._workers, ledger=Ledger(len(samples), 1.0), fast=self._fast,
        )  # fmt: skip
        with watch_workers(), torch.inference_mode():
            for batch in batches:
                keys += batch.keys
                rows.append(self._embedded(batch.images))
                if views:
                    pixels.append(batch.images.permute(0, 2, 3, 1).numpy())
        known = [each for each in rows if each is not None]
        seen = np.concatenate(pixels[1:] or pixels)
        return SeenImages(
            keys, seen, np.concatenate(known) if len(known) == len(rows) > 0 else None
        )

    def maps(self, views: NDArray[np.uint8], classes: list[int]) -> ActivationMaps | None:
        """Grad-CAM of a class for each of ``views``; None where the network has no such map."""
        import torch

        from hgnetv2_pipeline.evaluation.activation_maps import grad_cam

        images = self._normalised(torch.from_numpy(views).permute(0, 3, 1, 2))
        return grad_cam(self._network, images, classes)

    def _normalised(self, images: Any) -> Any:
        from hgnetv2_pipeline.input.loader import normalise

        means = self._preprocess.mean, self._preprocess.std
        return normalise(images.to(self._device), *means).contiguous()

    def _embedded(self, images: Any) -> NDArray[np.float32] | None:
        import torch

        network = self._network
        if not (hasattr(network, "forward_features") and hasattr(network, "forward_head")):
            return None
        features = network.forward_features(self._normalised(images))
        embedding = network.forward_head(features, pre_logits=True)
        unit = torch.nn.functional.normalize(embedding.float().flatten(1))
        return np.asarray(unit.cpu().numpy(), dtype=np.float32)


def nearest_images(images: SeenImages, others: SeenImages) -> list[tuple[str, float] | None]:
    """For each of ``images`` the key of the nearest of ``others`` but itself, and their cosine;
    None where there is none.
    """
    if images.embeddings is None or others.embeddings is None or not others.keys:
        return [None] * len(images.keys)
    cosines = images.embeddings @ others.embeddings.T
    cosines[np.asarray(images.keys)[:, None] == np.asarray(others.keys)[None, :]] = -np.inf
    places = cosines.argmax(axis=1)
    return [
        (others.keys[place], float(row[place])) if np.isfinite(row[place]) else None
        for row, place in zip(cosines, places.tolist(), strict=True)
    ]
