"""What other programs make of the same labelled images from scratch, in the same CPU seconds.

    python benchmarks/bench_peers.py --set FOLDER --side 32 --seconds 125 500 [--seeds 0 1 2]
        [--peers timm fastai ultralytics lightly_train] [--recipes default small]
        [--beside RUN ...] [--store FILE]

The set is that of ``emoji_set.py`` or ``fashion_set.py``; images are composited on white, and all
labelled images are trained on. Each peer has one thread and an environment of its own in
``build/environments``, made where it is not there yet (6 GB each, from PyPI); one that cannot be
made is left out with a line. How many epochs fit into the seconds follows from two short trainings.
Two recipes: ``default`` is what the program does unasked, ``small`` has crops of 60 % and more, a
mirror and nothing else. ``--beside`` names trained models of the pipeline as for
``plain_timm_loop.py``: of each peer is printed how much the first of them exceeds it, with the
standard error paired over the images.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from harness import ROOT, table
from plain_timm_loop import (
    CROP,
    RATE,
    SETS,
    Right,
    images_of,
    right_of_loop,
    right_of_runs,
    train,
)

from hgnetv2_pipeline.intervals import mean_difference
from hgnetv2_pipeline.processor import describe

PEERS = {
    "timm": (),
    "fastai": ("fastai",),
    "ultralytics": ("ultralytics",),
    "lightly_train": ("lightly-train", "timm"),
}
RECIPES = ("default", "small")
CROPS = {"default": CROP, "small": 0.6}
SHORT = (2, 12)  # epochs of the trainings that show what one costs


@dataclass(frozen=True)
class Answered:
    """A training: of each set 1 for each image that it answers rightly, else 0."""

    peer: str
    recipe: str
    seed: int
    asked_s: float
    about: str
    steps: int
    cpu_s: float
    right: dict[str, list[float]]


def write_images(folder: Path, out: Path, classes: list[str]) -> None:
    """The set as trees of PNG files on white: train, test, other, and val with one of each class.

    Programs want a val set; what it says is not used, and all labelled images are trained on.
    """
    for name in ("labelled", *SETS):
        if not (folder / name).is_dir():
            continue
        images, labels = images_of(folder / name, classes)
        for place, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            into = [out / ("train" if name == "labelled" else name) / classes[label]]
            val = out / "val" / classes[label]
            if name == "labelled" and not val.exists():
                into.append(val)
            for tree in into:
                tree.mkdir(parents=True, exist_ok=True)
                image.save(tree / f"{place:05d}.png")


def python_of(peer: str) -> Path | None:
    """The interpreter of its environment; None where that cannot be made."""
    script = ROOT / "tests" / "serving" / "client_environment.py"
    made = subprocess.run([sys.executable, script, *PEERS[peer]], capture_output=True, text=True)
    if made.returncode:
        reason = (made.stderr.strip().splitlines() or ["no reason was given"])[-1]
        print(f"{peer} is left out, its environment cannot be made: {reason}", flush=True)
        return None
    return Path(made.stdout.split()[-1])


def train_elsewhere(python: Path, peer: str, recipe: str, *, images: Path, side: int, epochs: int,
                    seed: int) -> tuple[str, int, float, Right]:  # fmt: skip
    """A training by a program in its own environment: what it is, steps, CPU seconds, answers."""
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder) / "answers.json", Path(folder) / "log"
        program = Path(__file__).with_name(f"{peer}_contender.py")
        with log.open("w") as said:
            ended = subprocess.run(
                [python, program, images, str(side), str(epochs), str(seed), recipe, out],
                stdout=said, stderr=subprocess.STDOUT, cwd=folder, check=False,
                env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            )  # fmt: skip
        if ended.returncode or not out.exists():
            last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise SystemExit(f"{program.name} ended with exit code {ended.returncode}:\n{last}")
        found = json.loads(out.read_text())
    right: Right = {}
    for name, answers in found["answers"].items():
        classes = sorted(path.name for path in (images / name).iterdir())
        files = sorted((images / name).rglob("*.png"))
        truth = np.array([classes.index(path.parent.name) for path in files])
        right[name] = (np.array(answers) == truth).astype(float)
    return found["about"], found["steps"], found["cpu_s"], right


def epochs_within(seconds: float, costs: list[tuple[int, float]]) -> int:
    """How many epochs fit, by the line through two short trainings."""
    (few, little), (more, much) = costs
    each = max(1e-9, (much - little) / (more - few))
    return max(1, round(few + (seconds - little) / each))


def train_timm(folder: Path, classes: list[str], recipe: str, *, side: int, seconds: float,
               seed: int) -> tuple[str, int, float, Right]:  # fmt: skip
    """The plain loop, here."""
    torch.manual_seed(seed)
    images, labels = images_of(folder / "labelled", classes)
    model = timm.create_model("hgnetv2_b0", num_classes=len(classes)).train()
    steps, spent = train(
        model, images, labels, side=side, seconds=seconds, rate=RATE, seed=seed, crop=CROPS[recipe]
    )
    right = right_of_loop(model.eval(), folder, classes, side)
    return f"plain loop, timm {timm.__version__} hgnetv2_b0", steps, spent, right


def train_peer(peer: str, recipe: str, given: argparse.Namespace, classes: list[str],
               images: Path) -> list[Answered]:  # fmt: skip
    """All trainings of a peer with a recipe; none where its environment cannot be made."""
    found = []
    if peer == "timm":
        for seconds in given.seconds:
            for seed in given.seeds:
                one = train_timm(
                    given.set, classes, recipe, side=given.side, seconds=seconds, seed=seed
                )
                found.append(answered(peer, recipe, seed, seconds, one))
        return found
    python = python_of(peer)
    if python is None:
        return []

    def run(epochs: int, seed: int) -> tuple[str, int, float, Right]:
        return train_elsewhere(
            python, peer, recipe, images=images, side=given.side, epochs=epochs, seed=seed
        )

    costs = [(epochs, run(epochs, 0)[2]) for epochs in SHORT]
    for seconds in given.seconds:
        for seed in given.seeds:
            one = run(epochs_within(seconds, costs), seed)
            found.append(answered(peer, recipe, seed, seconds, one))
    return found


def answered(peer: str, recipe: str, seed: int, seconds: float,
             one: tuple[str, int, float, Right]) -> Answered:  # fmt: skip
    """A finished training, said on the console at once: a whole run takes long."""
    about, steps, spent, right = one
    counts = ", ".join(f"{name} {row.sum():.0f} of {len(row)}" for name, row in right.items())
    print(f"{peer}, {recipe}, seed {seed}: {steps} steps, {spent:.0f} CPU s, {counts}", flush=True)
    kept = {name: row.tolist() for name, row in right.items()}
    return Answered(peer, recipe, seed, seconds, about, steps, spent, kept)


def rows_of(found: list[Answered], ours: Right | None) -> list[list[str]]:
    """A row for each peer, recipe and number of seconds: means over its seeds."""
    groups: dict[tuple[str, str, float], list[Answered]] = {}
    for one in found:
        groups.setdefault((one.peer, one.recipe, one.asked_s), []).append(one)
    rows = []
    for (_, recipe, _), runs in groups.items():
        row = [runs[0].about, recipe, f"{np.mean([one.cpu_s for one in runs]):.0f}",
               f"{np.mean([one.steps for one in runs]):,.0f}"]  # fmt: skip
        for name in runs[0].right:
            each = np.array([one.right[name] for one in runs])
            row.append(" ".join(f"{total:.0f}" for total in each.sum(axis=1)))
            if ours is not None:
                more = mean_difference(ours[name], each.mean(axis=0))
                row.append(f"{100 * more.value:+.1f} ± {100 * more.error:.1f}")
        rows.append(row)
    return rows


def main() -> None:
    """Train with every peer and recipe, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--set", type=Path, required=True)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--seconds", type=float, nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--beside", nargs="+", default=[])
    parser.add_argument(
        "--store", type=Path, help="JSON: the trainings of earlier calls stay in it"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    classes = sorted(path.name for path in (given.set / "labelled").iterdir())
    beside = [right_of_runs(runs, given.set, classes) for runs in given.beside]
    stored = given.store and given.store.exists()
    found = [Answered(**one) for one in json.loads(given.store.read_text())] if stored else []
    print(describe(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder)
        write_images(given.set, images, classes)
        for peer in given.peers:
            for recipe in given.recipes:
                found += train_peer(peer, recipe, given, classes, images)
                if given.store:
                    given.store.write_text(json.dumps([asdict(one) for one in found]))
    sets = [name for name in SETS if (given.set / name).is_dir()]
    heads = [head for name in sets for head in (name, "ours over it")[: 2 if beside else 1]]
    rows = rows_of(found, beside[0] if beside else None)
    print(table([["peer", "recipe", "CPU s", "steps", *heads], *rows]))
    for runs, right in zip(given.beside, beside, strict=True):
        counts = ", ".join(f"{name} {row.sum():.0f} of {len(row)}" for name, row in right.items())
        print(f"{runs}: {counts}")


if __name__ == "__main__":
    main()
