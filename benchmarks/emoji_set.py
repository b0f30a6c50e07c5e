"""A data set that nobody here drew: emoji of two vendors, from packages of the npm registry.

    python benchmarks/emoji_set.py OUT

fetches ``emoji-datasource-google`` and ``emoji-datasource-twitter`` 16.0.0 by ``npm pack`` (136 MB;
packages under the MIT licence; Google's Noto Emoji images are under Apache-2.0, Twitter's Twemoji
under CC-BY 4.0) and writes

- ``OUT/labelled/<class>/*.png``: Google's images of 10 classes, at most 48 per class;
- ``OUT/pool/*.png``: the other images of both vendors, a third of them of no class;
- ``OUT/test/<class>/*.png``: Google's images of emoji that are neither labelled nor in the pool;
- ``OUT/other/<class>/*.png``: Twitter's images of the same emoji; this vendor was never labelled;
- ``OUT/pool_truth.csv``: key and true class (empty: none) of every image of the pool.

Which emoji goes where is decided by a hash of its code points, the same everywhere. Of labelled and
test images with the same bytes (a few flags) the first counts. The files are copied as they are: 64
px, most of them with transparency. Nothing of it is part of the project.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

VERSION = "16.0.0"
VENDORS = ("google", "twitter")
MOST_LABELLED = 48
TEST_SHARE, LABELLED_SHARE = 0.35, 0.40


def class_of(category: str, subcategory: str) -> str | None:
    """The class of an emoji from the categories that Unicode gives it; None: of no class."""
    if category == "Flags":
        return "flag"
    if category == "Food & Drink" and subcategory != "dishware":
        return "food & drink"
    if category == "Symbols" and subcategory not in ("alphanum", "geometric", "currency"):
        return "sign"
    for begin, name in (
        ("animal-", "animal"),
        ("place-building", "building"),
        ("place-religious", "building"),
        ("clothing", "clothing"),
        ("face-", "face"),
        ("hand", "hand"),
        ("person", "person"),
        ("transport-air", "vehicle"),
        ("transport-ground", "vehicle"),
        ("transport-water", "vehicle"),
    ):
        if subcategory.startswith(begin):
            return name
    return None


def draw(code: str) -> float:
    """A number in [0, 1) that depends on the emoji alone."""
    return int(hashlib.sha256(code.encode()).hexdigest()[:8], 16) / 2**32


def npm_package(name: str, version: str, cache: Path) -> Path:
    """The archive of a package; SystemExit with the reason where npm cannot give it."""
    cache.mkdir(parents=True, exist_ok=True)
    archive = cache / f"{name}-{version}.tgz"
    if archive.is_file():
        return archive
    if shutil.which("npm") is None:
        sys.exit(f"skipped: npm is not installed, and {name} comes by it")
    done = subprocess.run(
        ["npm", "pack", "--silent", f"{name}@{version}"],
        cwd=cache, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode or not archive.is_file():
        sys.exit(f"skipped: npm pack {name}@{version}: {done.stderr.strip()[-300:]}")
    return archive


def fetch(cache: Path) -> dict[str, Path]:
    """The unpacked packages by vendor; SystemExit with the reason where npm cannot give them."""
    found = {}
    for vendor in VENDORS:
        archive = npm_package(f"emoji-datasource-{vendor}", VERSION, cache)
        folder = cache / vendor
        if not (folder / "emoji.json").is_file():
            with tarfile.open(archive) as tar:
                for member in tar:
                    path = member.name.removeprefix("package/")
                    if member.isfile() and (path == "emoji.json" or f"/{vendor}/64/" in path):
                        target = folder / path.replace(f"img/{vendor}/64/", "img/")
                        target.parent.mkdir(parents=True, exist_ok=True)
                        content = tar.extractfile(member)
                        assert content is not None
                        target.write_bytes(content.read())
        found[vendor] = folder
    return found


def write_truth(out: Path, truth: list[tuple[str, str]]) -> None:
    """``pool_truth.csv``: key and class of every image of the pool."""
    with (out / "pool_truth.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("key", "class"), *sorted(truth)])


def build(packages: dict[str, Path], out: Path) -> Counter[str]:
    """Write the folders below ``out``; how many images each got."""
    counts: Counter[str] = Counter()
    labelled: Counter[str] = Counter()
    truth: list[tuple[str, str]] = []

    seen: set[bytes] = set()

    def put(vendor: str, image: str, folder: str) -> None:
        source = packages[vendor] / "img" / image
        if not source.is_file():
            return
        content = source.read_bytes()
        if folder == "pool" or content not in seen:
            if folder != "pool":
                seen.add(content)
            target = out / folder / f"{vendor}-{image}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            counts[folder.partition("/")[0]] += 1

    emoji = json.loads((packages["google"] / "emoji.json").read_text(encoding="utf-8"))
    for one in sorted(emoji, key=lambda entry: draw(entry["unified"])):
        name = class_of(one["category"], one["subcategory"])
        drawn = draw(one["unified"])
        variations = [each["image"] for each in one.get("skin_variations", {}).values()]
        if name is not None and drawn < TEST_SHARE:
            put("google", one["image"], f"test/{name}")
            put("twitter", one["image"], f"other/{name}")
            continue  # its variations are left out: they are near copies of test images
        taken = name is not None and drawn < TEST_SHARE + LABELLED_SHARE
        if taken and labelled[str(name)] < MOST_LABELLED:
            labelled[str(name)] += 1
            put("google", one["image"], f"labelled/{name}")
        else:
            put("google", one["image"], "pool")
        put("twitter", one["image"], "pool")
        for image in variations:
            for vendor in VENDORS:
                put(vendor, image, "pool")
        truth += [
            (f"{vendor}-{image}", name or "")
            for vendor in VENDORS
            for image in [one["image"], *variations]
            if (out / "pool" / f"{vendor}-{image}").is_file()
        ]
    write_truth(out, truth)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--cache", type=Path, default=None, help="default: OUT/npm")
    given = parser.parse_args()
    counts = build(fetch(given.cache or given.out / "npm"), given.out)
    print(", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())))


if __name__ == "__main__":
    main()
