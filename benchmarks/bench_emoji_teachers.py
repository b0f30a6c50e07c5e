"""Probes as teachers on emoji: how many they get right, where, and in how many CPU seconds.

    python benchmarks/bench_emoji_teachers.py [--set FOLDER] [--probe timm:NAME@FILE ...]

The set is that of ``emoji_set.py``, made where it is missing (``npm`` fetches 136 MB). Probes are
fitted to all of Google's labelled images, alone and with self-training on the pool. Counted are the
right answers on the images held out in cross-validation, on other emoji of the same vendor (test),
on the same emoji of a vendor that was never labelled (other), and on the images of the pool that
belong to a class. A second table ranks the pool and counts how pure its best images are.
Transparency is composited on white; in a last row it is dropped.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import emoji_set
import numpy as np
import torch
from numpy.typing import NDArray

from hgnetv2_pipeline.data.decode import Colour, Decoding
from hgnetv2_pipeline.data.index import with_decoding
from hgnetv2_pipeline.data.scan.folders import scan_folder_tree, scan_unlabelled
from hgnetv2_pipeline.processor import describe
from hgnetv2_pipeline.teacher.logistic import Classifier, fit_classifier
from hgnetv2_pipeline.teacher.probing import ProbeConfig, image_features, unfitted_probe
from hgnetv2_pipeline.teacher.self_training import LEAST_TYPICAL, Features, self_train
from hgnetv2_pipeline.teacher.typicality import fit_reference, unit
from hgnetv2_pipeline.weights.packages import installed_packages

SETS = ("test", "other", "pool")
DEPTHS = (800, 1500, 2200)


@dataclass(frozen=True)
class Seen:
    """What a probe sees of each set: features [N, D], labels [N] (-1: of no class), CPU seconds."""

    name: str
    size: int
    features: dict[str, NDArray[np.float32]]
    labels: dict[str, NDArray[np.int64]]
    labelled_seconds: float
    pool_seconds: float


def look(spec: str, folder: Path, background: Colour | None) -> Seen:
    """Read all images with one probe."""
    labelled = scan_folder_tree(folder / "labelled")
    with (folder / "pool_truth.csv").open(newline="", encoding="utf-8") as file:
        truth = {line["key"]: line["class"] for line in csv.DictReader(file)}
    samples = {
        which: scan_folder_tree(folder / which).samples for which in ("labelled", "test", "other")
    }
    pool = scan_unlabelled(folder / "pool").samples
    of_class = {name: label for label, name in enumerate(labelled.classes)}
    samples["pool"] = pool.assign(label=[of_class.get(truth[key], -1) for key in pool["key"]])
    samples = {
        which: with_decoding(rows, Decoding(background=background))
        for which, rows in samples.items()
    }
    how = ProbeConfig()
    probe, preprocess = unfitted_probe(
        spec, samples["labelled"], len(of_class), Path.cwd(), how, "cpu"
    )
    features, labels, seconds = {}, {}, {}
    for which, rows in samples.items():
        began = time.process_time()
        features[which], _ = image_features(
            probe, rows.assign(label=0), folder / which, preprocess=preprocess, how=how,
            device="cpu",
        )  # fmt: skip
        labels[which] = rows["label"].to_numpy(np.int64)
        seconds[which] = time.process_time() - began
    return Seen(spec, probe.size, features, labels, seconds["labelled"], seconds["pool"])


def log_mean(
    seen: Sequence[Seen], classifiers: Sequence[Classifier], which: str
) -> NDArray[np.floating]:
    """Logarithm [N, C] of the mean probability."""
    each = [
        torch.from_numpy(one.features[which] @ c.weight.T + c.bias).softmax(dim=1)
        for one, c in zip(seen, classifiers, strict=True)
    ]
    mean: NDArray[np.floating] = torch.stack(each).mean(dim=0).log().numpy()
    return mean


def counts(seen: Sequence[Seen], classifiers: Sequence[Classifier]) -> str:
    """Right answers of test, other and pool, as cells."""
    cells = []
    for which in SETS:
        labels = seen[0].labels[which]
        right = log_mean(seen, classifiers, which).argmax(axis=1) == labels
        cells.append(f"{right.sum():,} of {(labels >= 0).sum():,}")
    return " | ".join(cells)


def held_out(classifiers: Sequence[Classifier], labels: NDArray[np.int64]) -> str:
    mean = np.mean([np.exp(one.held_out) for one in classifiers], axis=0)
    return f"{(mean.argmax(axis=1) == labels).sum()} of {len(labels)}"


def ranking(name: str, seen: Sequence[Seen], classifiers: Sequence[Classifier]) -> list[str]:
    """A row for each way to rank the pool: of the best images, how many are of their class."""

    def together(which: str) -> torch.Tensor:
        return unit(torch.cat([unit(torch.from_numpy(o.features[which])) for o in seen], dim=1))

    labels = torch.from_numpy(seen[0].labels["labelled"])
    known = torch.from_numpy(log_mean(seen, classifiers, "labelled")).max(dim=1)
    found = torch.from_numpy(log_mean(seen, classifiers, "pool")).max(dim=1)
    reference = fit_reference(known.values, known.indices, together("labelled"), labels)
    typical = reference.typicality(found.values, found.indices, together("pool")).numpy()
    truth, guesses = seen[0].labels["pool"], found.indices.numpy()

    def purity(taken: NDArray[np.bool_] | NDArray[np.int64]) -> str:
        right, strange = (guesses == truth)[taken], (truth < 0)[taken]
        return f"{100 * right.mean():.1f} ({100 * strange.mean():.1f})"

    rows = []
    for by, score in (("confidence", found.values.numpy()), ("typicality", typical)):
        order = np.argsort(-score, kind="stable")
        cells = " | ".join(purity(order[:n]) for n in DEPTHS)
        rows.append(f"| {name} | {by} | {cells} | |")
    taken = typical >= LEAST_TYPICAL
    rows.append(f"| {name} | typicality | | | | {taken.sum():,}: {purity(taken)} |")
    return rows


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", type=Path, default=Path("data/01_raw/emoji"))
    parser.add_argument("--probe", nargs="+", default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not (given.set / "pool_truth.csv").is_file():
        emoji_set.build(emoji_set.fetch(given.set / "npm"), given.set)
    packaged = [f"timm:{name}:packaged" for name in installed_packages()[:1]]
    probes = given.probe or [*packaged, "simple"]
    print(f"{describe()}; torch {torch.__version__}, one thread")
    print("| probes | pixels | held out | test | other | pool | CPU s: features + fit + pool |")
    print("|---|---|---|---|---|---|---|")
    every = [look(spec, given.set, (255, 255, 255)) for spec in probes]
    dropped = look(probes[0], given.set, None)
    ranked: list[str] = []
    groups = [[one] for one in every] + ([every] if len(every) > 1 else [])
    for seen in [*groups, [dropped]]:
        labels = seen[0].labels["labelled"]
        classes = int(labels.max()) + 1
        name = " and ".join(one.name for one in seen)
        name += ", transparency dropped" if seen[0] is dropped else ""
        sizes = ", ".join(str(one.size) for one in seen)
        began = time.process_time()
        plain = [fit_classifier(one.features["labelled"], labels, classes) for one in seen]
        fit = time.process_time() - began
        looked = sum(one.labelled_seconds for one in seen), sum(one.pool_seconds for one in seen)
        print(
            f"| {name} | {sizes} | {held_out(plain, labels)} | {counts(seen, plain)} | "
            f"{looked[0]:.0f} + {fit:.0f} + {looked[1]:.0f} |",
            flush=True,
        )
        if seen[0] is dropped:
            break
        ranked += ranking(name, seen, plain)
        began = time.process_time()
        views = [Features(one.features["labelled"], one.features["pool"]) for one in seen]
        found = self_train(views, labels, classes)
        partners = [seen[place] for place in found.partners]
        print(
            f"| {name}, self-trained on {found.taken:,} | {sizes} | rehearsal: "
            f"{found.right_before}, then {found.right_after} of {found.held_out} | "
            f"{counts(partners, found.classifiers)} | {time.process_time() - began:.0f} more |",
            flush=True,
        )
        ranked += ranking(f"{name}, self-trained", partners, found.classifiers)
    print("\n| probes | ranked by | " + " | ".join(f"best {n:,}" for n in DEPTHS)
          + f" | all of {LEAST_TYPICAL} and more |")  # fmt: skip
    print("|---|---|---|---|---|---|\n" + "\n".join(ranked))
    print("% right (% of no class)")


if __name__ == "__main__":
    main()
