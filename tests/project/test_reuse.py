"""Whether a finished result is still valid: nothing finished is overwritten, lost or made twice."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hgnetv2_pipeline.durable import read_json, sha256_file
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.ownership import lock_file
from hgnetv2_pipeline.project.results import (
    ContentHashes,
    Result,
    ResultSpec,
    Reuse,
    Work,
    changes,
)


class Bakery:
    """Makes ``bread.txt`` from ``flour.txt`` and counts how often."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.folder = project / "data" / "06_models" / "bread"
        self.flour = project / "flour.txt"
        self.flour.write_text("wheat")
        self.baked = 0

    def bake(self, redo: tuple[str, ...] = (), **params: Any) -> Result:
        def make(aside: Path) -> None:
            self.baked += 1
            (aside / "bread.txt").write_text(f"{self.flour.read_text()} {params}")

        return Reuse(self.project, redo).produce(self.spec(**params), make)

    def spec(self, outputs: tuple[str, ...] = ("bread.txt",), **params: Any) -> ResultSpec:
        return ResultSpec(
            folder=self.folder,
            pipeline="baking",
            inputs={"flour": self.flour},
            params=params,
            outputs=outputs,
        )


@pytest.fixture
def bakery(tmp_path: Path) -> Bakery:
    return Bakery(tmp_path)


def test_the_same_inputs_and_parameters_are_reused_and_nothing_is_written(bakery: Bakery) -> None:
    assert not bakery.bake(heat=200).reused
    before = {path: path.stat().st_mtime_ns for path in bakery.folder.rglob("*")}
    assert bakery.bake(heat=200).reused
    assert bakery.baked == 1
    assert {path: path.stat().st_mtime_ns for path in bakery.folder.rglob("*")} == before


def test_a_touched_input_is_reused_and_a_changed_byte_is_not(bakery: Bakery) -> None:
    bakery.bake(heat=200)
    os.utime(bakery.flour, (1, 1))
    assert bakery.bake(heat=200).reused
    bakery.flour.write_text("wheaT")
    assert not bakery.bake(heat=200).reused


def test_another_parameter_archives_the_old_result_readable(bakery: Bakery) -> None:
    first = bakery.bake(heat=200)
    bakery.bake(heat=250)
    archived = bakery.folder.parent / "archive" / first.fingerprint[:8] / "bread" / "bread.txt"
    assert "200" in archived.read_text()
    assert "250" in (bakery.folder / "bread.txt").read_text()


def test_going_back_to_the_first_recipe_loses_neither(bakery: Bakery) -> None:
    for heat in (200, 250, 200):
        bakery.bake(heat=heat)
    kept = [path.read_text() for path in bakery.folder.parent.rglob("bread.txt")]
    assert len(kept) == 3


@pytest.mark.parametrize("damage", ["change", "delete"])
def test_a_damaged_output_is_made_again_and_the_damaged_one_kept(
    bakery: Bakery, damage: str
) -> None:
    bakery.bake(heat=200)
    output = bakery.folder / "bread.txt"
    if damage == "change":
        output.write_text("mouldy")
    else:
        output.unlink()
    assert not bakery.bake(heat=200).reused
    assert "wheat" in output.read_text()
    archived = list((bakery.folder.parent / "archive").rglob("manifest.json"))
    assert len(archived) == 1


@pytest.mark.parametrize("redo", [("baking",), ("all",)])
def test_redo_makes_a_standing_result_again(bakery: Bakery, redo: tuple[str, ...]) -> None:
    bakery.bake(heat=200)
    assert not bakery.bake(redo=redo, heat=200).reused
    assert bakery.bake(redo=("other",), heat=200).reused


def test_a_failure_leaves_the_old_result_standing_and_nothing_half_written(
    bakery: Bakery,
) -> None:
    bakery.bake(heat=200)
    before = sorted(bakery.folder.parent.rglob("*"))

    def fail(aside: Path) -> None:
        (aside / "bread.txt").write_text("half")
        raise DataError("the oven broke")

    with pytest.raises(DataError, match="oven"):
        Reuse(bakery.project).produce(bakery.spec(heat=999), fail)
    assert sorted(bakery.folder.parent.rglob("*")) == before
    assert bakery.bake(heat=200).reused


def test_a_missing_input_is_named(bakery: Bakery) -> None:
    bakery.flour.unlink()
    with pytest.raises(DataError, match=r"flour\.txt"):
        bakery.bake(heat=200)


def begin(project: Path, heat: int, *, adopt: bool | None = None) -> Result | Work:
    return Reuse(project).begin(
        ResultSpec(
            folder=project / "data" / "long",
            pipeline="roast",
            params={"heat": heat},
            outputs=["roast.txt"],
            resumable=True,
            adopt=adopt,
        )
    )


def test_unfinished_work_of_the_same_recipe_goes_on(tmp_path: Path) -> None:
    first = begin(tmp_path, 1)
    assert isinstance(first, Work)
    (first.folder / "half.txt").write_text("step 3")
    second = begin(tmp_path, 1)
    assert isinstance(second, Work)
    assert (second.folder / "half.txt").read_text() == "step 3"
    (second.folder / "roast.txt").write_text("done")
    second.finish()
    assert isinstance(begin(tmp_path, 1), Result)


def test_what_fails_half_way_is_kept_for_the_next_call_and_nobody_holds_it(tmp_path: Path) -> None:
    spec = ResultSpec(
        folder=tmp_path / "data" / "long", pipeline="roast", outputs=["roast.txt"], resumable=True
    )

    def fail(folder: Path) -> None:
        (folder / "half.txt").write_text("step 3")
        raise DataError("the oven broke")

    def go_on(folder: Path) -> None:
        assert (folder / "half.txt").read_text() == "step 3"
        (folder / "roast.txt").write_text("done")

    with pytest.raises(DataError, match="oven"):
        Reuse(tmp_path).produce(spec, fail)
    assert not lock_file(spec.folder).exists()
    assert not Reuse(tmp_path).produce(spec, go_on).reused
    assert Reuse(tmp_path).produce(spec, fail).reused


def test_the_manifest_has_the_hashes_of_what_lies_there_not_remembered_ones(tmp_path: Path) -> None:
    work = begin(tmp_path, 1)
    assert isinstance(work, Work)
    output = work.folder / "roast.txt"
    output.write_text("done")
    ContentHashes(tmp_path / "data" / ".hashes.sqlite").note([output], ["0" * 64])
    work.finish()
    assert read_json(work.folder / "manifest.json")["outputs"] == {"roast.txt": sha256_file(output)}


def test_unfinished_work_of_another_recipe_is_archived(tmp_path: Path) -> None:
    first = begin(tmp_path, 1)
    assert isinstance(first, Work)
    (first.folder / "half.txt").write_text("step 3")
    second = begin(tmp_path, 2)
    assert isinstance(second, Work)
    assert not (second.folder / "half.txt").exists()
    kept = list((tmp_path / "data" / "archive").rglob("half.txt"))
    assert [path.read_text() for path in kept] == ["step 3"]


@pytest.mark.parametrize("adopt", [False, True])
def test_unfinished_work_of_another_recipe_is_adopted_if_asked(
    tmp_path: Path, adopt: bool, caplog: pytest.LogCaptureFixture
) -> None:
    first = begin(tmp_path, 1, adopt=adopt)
    (first.folder / "half.txt").write_text("step 3")
    with caplog.at_level(logging.WARNING):
        begin(tmp_path, 2, adopt=adopt)
    assert (first.folder / "half.txt").exists() is adopt
    assert "heat 1 -> 2" in caplog.text
    assert ("resume=force would go on" in caplog.text) is not adopt
    assert isinstance(begin(tmp_path, 2, adopt=False), Work)
    assert (first.folder / "half.txt").exists() is adopt, "it is the new recipe's from then on"


def test_named_results_share_a_folder_without_touching_each_other(tmp_path: Path) -> None:
    def produce(name: str, value: int) -> Result:
        return Reuse(tmp_path).produce(
            ResultSpec(
                folder=tmp_path / "data" / "shared",
                name=name,
                pipeline="p",
                params={"value": value},
                outputs=[f"{name}.txt"],
            ),
            lambda aside: (aside / f"{name}.txt").write_text(str(value)),
        )

    produce("a", 1)
    produce("b", 1)
    assert not produce("a", 2).reused
    assert produce("b", 1).reused
    folder = tmp_path / "data" / "shared"
    assert (folder / "a.txt").read_text() == "2"
    assert [path.read_text() for path in (folder / "archive").rglob("a.txt")] == ["1"]


def test_a_manifest_does_not_depend_on_the_place_of_the_project(tmp_path: Path) -> None:
    manifests = []
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        bakery = Bakery(tmp_path / place)
        bakery.bake(heat=200)
        manifests.append(read_json(bakery.folder / "manifest.json"))
    assert manifests[0] == manifests[1]


def test_differences_are_told_in_words() -> None:
    old = {"inputs": {"a": "1"}, "params": {"lr": 0.1, "loss": {"name": "ce"}}}
    new = {"inputs": {"a": "2"}, "params": {"lr": 0.2, "loss": {"name": "ce"}}}
    assert changes(old, new) == ["input a changed", "lr 0.1 -> 0.2"]


def test_a_tree_is_hashed_by_names_and_contents(tmp_path: Path) -> None:
    hashes = ContentHashes(tmp_path / "hashes.sqlite")
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "a").write_text("1")
    first = hashes.tree(tree)
    os.utime(tree / "sub" / "a", (1, 1))
    assert hashes.tree(tree) == first
    (tree / "sub" / "a").rename(tree / "sub" / "b")
    assert hashes.tree(tree) != first


def test_a_tree_with_broken_links_pipes_and_loops_is_hashed_and_not_waited_for(
    tmp_path: Path,
) -> None:
    tree = tmp_path / "project" / "tree"
    tree.mkdir(parents=True)
    (tree / "a").write_text("a")
    hashes = ContentHashes(tmp_path / "hashes.sqlite")
    seen = [hashes.tree(tree)]
    (tree / "gone").symlink_to(tree / "nowhere")
    seen.append(hashes.tree(tree))
    os.mkfifo(tree / "pipe")
    seen.append(hashes.tree(tree))
    (tree / "up").symlink_to(tmp_path / "project")
    assert hashes.tree(tree) == seen[-1], "a link upwards shows nothing new"
    (tree / "nowhere").write_text("there now")
    seen.append(hashes.tree(tree))
    assert len(set(seen)) == 4


def test_what_an_older_version_did_not_make_is_made(bakery: Bakery) -> None:
    bakery.bake(heat=200)

    def make(aside: Path) -> None:
        for name in ("bread.txt", "crumbs.txt"):
            (aside / name).write_text(name)

    spec = bakery.spec(("bread.txt", "crumbs.txt"), heat=200)
    result = Reuse(bakery.project).produce(spec, make)
    assert not result.reused
    assert (bakery.folder / "crumbs.txt").is_file()
    assert list((bakery.folder.parent / "archive").rglob("bread.txt"))


@pytest.mark.parametrize("made", [True, False])
def test_a_file_beside_the_outputs_is_kept_and_the_manifest_does_not_speak_of_it(
    bakery: Bakery, made: bool
) -> None:
    def make(aside: Path) -> None:
        (aside / "bread.txt").write_text("bread")
        if made:
            (aside / "crumbs.txt").write_text("crumbs")

    spec = replace(bakery.spec(heat=200), beside=["crumbs.txt"])
    first = Reuse(bakery.project).produce(spec, make)
    crumbs = bakery.folder / "crumbs.txt"
    assert crumbs.is_file() == made
    outputs = read_json(bakery.folder / "manifest.json")["outputs"]
    assert list(outputs) == ["bread.txt"]
    # What was made before there was such a file, or has lost it, stands.
    crumbs.unlink(missing_ok=True)
    assert Reuse(bakery.project).produce(spec, make).reused
    assert Reuse(bakery.project).produce(bakery.spec(heat=200), make).reused
    assert first.fingerprint == Reuse(bakery.project).begin(bakery.spec(heat=200)).fingerprint
