"""One's own data: two commands from folders outside the project to the report."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result

from hgnetv2_pipeline import processor
from hgnetv2_pipeline.commands import init
from hgnetv2_pipeline.commands.defaults import choose_defaults
from hgnetv2_pipeline.commands.init import _filled, write_environment
from hgnetv2_pipeline.commands.main import main
from hgnetv2_pipeline.commands.survey import Survey, survey
from hgnetv2_pipeline.errors import DataError, ParameterError
from killed_chain import kill_again_and_again, left, results
from multi_label_pictures import draw as draw_squares
from own_tree import CLASSES, PER_CLASS, Tree, draw, write_tree
from project_copies import ROOT, copy_project, kedro

RUN = "best/b0/seed=0"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, nothing is written there
# So few steps that the whole chain takes seconds; everything else is as `init` wrote it.
SHORT = (
    "train_teacher.recipe.epochs=3,train_teacher.recipe.threads=1,train_teacher.members=1,"
    "ssld_stage1.epochs=2,ssld_stage2.epochs=1,latency.warmup=2,latency.runs=5,mlflow=false"
)


@dataclass(frozen=True)
class Chain:
    """The project after ``hgnetv2 init shapes`` and ``kedro run --env shapes``."""

    project: Path
    tree: Tree
    said: str
    output: str

    def data(self, *parts: str) -> Path:
        return self.project.joinpath("data", *parts)

    def json(self, *parts: str) -> Any:
        return json.loads(self.data(*parts).read_text(encoding="utf-8"))

    def index(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(self.data("02_intermediate", "shapes", f"index_{name}.parquet"))


def seconds_of_nodes(output: str) -> dict[str, float]:
    """How long each node took, by the clock times of the lines that say it is completed."""
    seconds, before = {}, None
    for line in output.splitlines():
        if found := re.match(r"(\d\d):(\d\d):(\d\d) ", line):
            now = int(found[1]) * 3600 + int(found[2]) * 60 + int(found[3])
            before = now if before is None else before
            if "Completed node: " in line:
                # Lines have no fractions of a second, and a night may be between two.
                seconds[line.split("Completed node: ")[1].strip()] = (now - before) % 86400 + 0.5
                before = now
    return seconds


def hgnetv2(project: Path, *arguments: str) -> Result:
    """The ``hgnetv2`` command as typed in the project's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        # Whether or not the extra `teacher` is installed where the tests run.
        patch.setattr("hgnetv2_pipeline.commands.init.installed_packages", list)
        return CliRunner().invoke(main, list(arguments))


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    base = tmp_path_factory.mktemp("own")
    project = copy_project(base / "project")
    # A space in the path: what a home folder may have.
    tree = write_tree(base / "home of a user")
    done = hgnetv2(
        project, "init", "shapes", "--labelled", str(tree.labelled), "--pool", str(tree.pool)
    )
    assert done.exit_code == 0, done.output
    run = kedro(project, "run", "--env", "shapes", "--params", SHORT)
    return Chain(project, tree, done.output, run.stdout)


def test_init_says_what_it_found_and_what_comes_next(chain: Chain) -> None:
    assert f"{chain.tree.n_labelled} labelled images of 4 classes" in chain.said
    assert "largest 'Äpfel rot' 39, smallest '猫' 26" in chain.said
    assert "kedro run --env shapes" in chain.said
    text = (chain.project / "conf" / "shapes" / "parameters.yml").read_text(encoding="utf-8")
    assert "__" not in text
    assert str(chain.tree.labelled) in text


def test_the_sets_and_the_quarantine_add_up_to_what_lies_in_the_folders(chain: Chain) -> None:
    sets = {name: chain.index(name) for name in ("train", "val", "test", "pool")}
    left_out = pd.read_csv(chain.data("02_intermediate", "shapes", "quarantine.csv"))
    fates = Counter(zip(left_out["set"], left_out["fate"], strict=True))
    tree = chain.tree
    assert fates == {
        ("images", "quarantined"): tree.n_bad_labelled,
        ("pool", "quarantined"): tree.n_bad_pool,
    }
    labelled = sum(len(sets[name]) for name in ("train", "val", "test"))
    assert labelled + tree.n_bad_labelled == tree.n_labelled
    assert len(sets["pool"]) + tree.n_bad_pool == tree.n_pool
    for name, frame in sets.items():
        listed = chain.data("02_intermediate", "shapes", f"{name}_list.txt").read_text("utf-8")
        assert len(listed.splitlines()) == len(frame)
    summary = chain.json("08_reporting", "shapes", "ingestion", "summary.json")["sets"]
    assert {name: entry["n_images"] for name, entry in summary.items()} == {
        name: len(frame) for name, frame in sets.items()
    }
    audit = chain.json("08_reporting", "shapes", "mining", "two_b0", "audit.json")
    assert audit["pool_listed"] == audit["scored"] == len(sets["pool"])
    evaluation = chain.json(
        "08_reporting", "shapes", "evaluation", *RUN.split("/"), "test-torch-fp32.json"
    )
    assert evaluation["n_listed"] == evaluation["n_used"] == len(sets["test"])


def test_what_takes_seconds_is_in_the_table_as_the_reference(chain: Chain) -> None:
    rows = chain.json("08_reporting", "shapes", "comparison", "b0", "seed=0", "comparison.json")
    [reference] = [row for row in rows["rows"] if row["arm"] == "reference"]
    teacher = chain.json("06_models", "shapes", "train_teacher", "two_b0", "teacher.json")
    name = "train_teacher/two_b0/probe=simple"
    assert reference["run"] == name
    assert teacher["self_training"]["pool_images"] == len(chain.index("pool"))


def test_the_table_is_of_the_test_images_paired_and_says_what_evaluation_says(
    chain: Chain,
) -> None:
    table = chain.json("08_reporting", "shapes", "comparison", "b0", "seed=0", "comparison.json")
    n = len(chain.index("test"))
    assert {(row["split"], row["n"]) for row in table["rows"]} == {("test", n)}
    for row in table["rows"]:
        if row["seed"] is not None:
            its = chain.json(
                "08_reporting", "shapes", "evaluation", *row["run"].split("/"),
                "test-torch-fp32.json",
            )  # fmt: skip
            assert row["top1_count"] == its["top1_count"], row["run"]
    arms = {row["arm"] for row in table["rows"]}
    assert {"reference", "supervised", "stage1", "stage2", "teacher"} <= arms
    paired = {frozenset(pair["arms"]): pair["image_error"] for pair in table["pairs"]}
    assert set(paired) == set(map(frozenset, itertools.combinations(arms, 2)))
    first, second = (
        pd.read_parquet(
            chain.data("08_reporting", "shapes", "evaluation", stage, "b0", "seed=0",
                       "test-torch-fp32.parquet")
        ).set_index("key")["correct"].astype(float)
        for stage in ("ssld_stage1", "ssld_stage2")
    )  # fmt: skip
    by_hand = (first - second).std(ddof=1) / n**0.5
    assert paired[frozenset({"stage1", "stage2"})] == pytest.approx(by_hand, abs=1e-12)


def test_unusable_files_are_named_with_their_reason(chain: Chain) -> None:
    path = chain.data("08_reporting", "shapes", "quarantine", "ingestion.csv")
    reasons = pd.read_csv(path).set_index("key")["reason"]
    assert set(reasons.index) == {
        "images/Bob's tiles/broken.jpg",
        "images/blue rings/empty.png",
        "pool/the_pool/archiv mit Ümlaut.tar!räume/kaputt.png",
    }
    assert reasons.str.len().min() > 5


def test_no_near_duplicate_lies_on_two_sides_of_the_split(chain: Chain) -> None:
    from hgnetv2_pipeline.data.perceptual import near_pairs
    from hgnetv2_pipeline.data.scan.folders import scan_folder_tree

    sides = pd.concat(
        [chain.index(name).assign(side=name) for name in ("train", "val", "test")]
    ).set_index("key")["side"]
    group = {sides[f"images/{name}"] for name in chain.tree.near_group}
    assert len(group) == 1
    hashes = scan_folder_tree(chain.tree.labelled, phash=True).phash
    assert hashes is not None
    a, b = near_pairs(hashes.to_numpy("uint64"), 4)
    side = sides["images/" + hashes.index].to_numpy()
    assert len(a) >= 3
    assert (side[a] == side[b]).all()


def test_every_class_is_on_every_side(chain: Chain) -> None:
    for name in ("train", "val", "test"):
        assert set(chain.index(name)["label"]) == {0, 1, 2, 3}


def test_class_names_survive_into_labels_model_and_report(chain: Chain) -> None:
    import onnx

    bundle = chain.data("07_model_output", "shapes", *RUN.split("/"))
    names = bundle.joinpath("labels.txt").read_text(encoding="utf-8").splitlines()
    order = ["Bob's tiles", "blue rings", "Äpfel rot", "猫"]
    assert set(order) == set(CLASSES)
    assert [line.split(" ", 1)[-1] if line[0].isdigit() else line for line in names] == order
    metadata = {
        entry.key: entry.value
        for entry in onnx.load(bundle / "model.onnx", load_external_data=False).metadata_props
    }
    assert any(json.loads(value) == order for value in metadata.values() if value[:1] == "[")
    page = chain.data("08_reporting", "shapes", "report", "report.md").read_text("utf-8")
    for name in order:
        assert name.replace("'", "&#x27;") in page or name in page, name


def test_the_pool_tar_is_read_in_place(chain: Chain) -> None:
    pool = chain.index("pool")
    inside = pool[pool["offset"] >= 0]
    assert len(inside) == 60 + len(chain.tree.copied)
    assert "pool/the_pool/archiv mit Ümlaut.tar!räume/图像 0.png" in set(inside["key"])
    raw = chain.data("01_raw", "shapes")
    assert sorted(path.name for path in raw.iterdir() if "review.csv" not in path.name) == [
        "images",
        "pool",
    ]
    assert (raw / "pool" / "the_pool").resolve() == chain.tree.pool.resolve()
    assert not list(chain.data().rglob("图像*"))


def test_copies_of_labelled_images_are_not_mined(chain: Chain) -> None:
    mined = pd.read_parquet(chain.data("05_model_input", "shapes", "two_b0", "mined.parquet"))
    assert len(mined) > 0
    assert not mined["key"].str.contains("!copy/").any()


def test_nothing_is_chosen_by_the_test_set_and_each_training_is_measured_once(
    chain: Chain,
) -> None:
    """The model was chosen on val, where every candidate was evaluated."""
    base = chain.data("08_reporting", "shapes", "evaluation")
    found = {path.relative_to(base).as_posix() for path in base.rglob("*-fp32.json")}
    choice = chain.json("06_models", "shapes", *RUN.split("/"), "choice.json")
    runs = [each["run"] for each in choice["candidates"]]
    assert runs[:2] == ["ssld_stage2/b0/seed=0", "ssld_stage1/b0/seed=0"]
    table = chain.json("08_reporting", "shapes", "comparison", "b0", "seed=0", "comparison.json")
    compared = {row["run"] for row in table["rows"] if row["seed"] is not None}
    on_test = {f"{run}/test-torch-fp32.json" for run in {RUN} | compared}
    assert found == on_test | {f"{run}/val-torch-fp32.json" for run in runs}
    chosen_from = chain.json("06_models", "shapes", *RUN.split("/"), "manifest.json")
    assert "test" not in " ".join(chosen_from["inputs"])
    test = set(chain.index("test")["key"])
    mined = pd.read_parquet(chain.data("05_model_input", "shapes", "two_b0", "train_mined.parquet"))
    assert not test & set(mined["key"])


def test_the_report_is_reached_and_nobody_is_told_of_the_sample(chain: Chain) -> None:
    assert "read the report  data/08_reporting/shapes/report/report.html" in chain.output
    page = chain.data("08_reporting", "shapes", "report", "report.html").read_text("utf-8")
    assert "EMBEDDED SAMPLE" not in page + chain.output
    assert "imbalance" in page


@pytest.mark.slow  # of the embedded sample by default: test_sample_run.py
def test_killed_five_times_it_ends_as_the_undisturbed_one(chain: Chain) -> None:
    """Kill -9 at random moments; 30 of them, one inside every node, are in the long suite."""
    project = copy_project(chain.project.parent / "killed")
    words = ("--labelled", str(chain.tree.labelled), "--pool", str(chain.tree.pool))
    assert hgnetv2(project, "init", "shapes", *words).exit_code == 0
    arguments = ("--env", "shapes", "--params", SHORT)
    memory = sorted(SHARED_MEMORY.iterdir())
    seed = random.randrange(10**9)
    inside = kill_again_and_again(
        project, *arguments, seconds=seconds_of_nodes(chain.output), kills=5, seed=seed
    )
    done = kedro(project, "run", *arguments)
    expected, found = results(chain.project), results(project)
    assert {name: found.get(name) for name in expected} == expected, f"seed {seed}"
    assert len(inside) >= 3, (inside, f"seed {seed}")
    assert left(project) == [], done.stdout
    assert sorted(SHARED_MEMORY.iterdir()) == memory


def test_a_second_run_reuses_everything(chain: Chain) -> None:
    def state() -> dict[str, int]:
        return {
            str(path): path.stat().st_mtime_ns
            for path in chain.data().rglob("*")
            if path.is_file() and ".hashes" not in path.name
        }

    before = state()
    done = kedro(chain.project, "run", "--env", "shapes", "--params", SHORT)
    assert "parameter groups" not in done.stdout
    assert state() == before


# --- hgnetv2 init -------------------------------------------------------------------------------


def small_tree(root: Path, **counts: int) -> Path:
    import numpy as np

    rng = np.random.default_rng(0)
    for kind, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            draw(kind, rng).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A project with nothing but its configuration."""
    import shutil

    shutil.copytree(ROOT / "conf", tmp_path / "project" / "conf")
    return tmp_path / "project"


@pytest.mark.parametrize(
    ("name", "options", "code", "said"),
    [
        ("1st", {}, 2, "NAME '1st': use letters, digits, _ and -"),
        ("../x", {}, 2, "NAME '../x'"),
        ("sample", {}, 2, "NAME 'sample' is taken"),
        ("imagenet", {}, 2, "NAME 'imagenet' is taken"),
        ("cats", {"--variant": "b9"}, 2, "unknown variant 'b9'; choose one of b0, b1"),
        ("cats", {"--labelled": "nowhere"}, 3, "--labelled nowhere does not exist"),
        ("cats", {"--pool": "nowhere"}, 3, "--pool nowhere does not exist"),
        ("cats", {"--test": "nowhere"}, 3, "--test nowhere does not exist"),
        ("cats", {"--pool": "empty"}, 3, "--pool empty holds neither images"),
        ("cats", {"--labelled": "lone"}, 3, "one folder per class, at least two .* found 1: only"),
        ("cats", {"--labelled": "two/a"}, 3, "found 0: none; 3 images are outside any class"),
        ("cats", {"--pool": "two/a"}, 3, "--pool two/a is inside --labelled two"),
        ("cats", {"--labelled": "broken"}, 3, "none of 2 labelled images looked at can be opened"),
    ],
)
def test_init_refuses_in_one_line_and_writes_nothing(
    bare: Path, name: str, options: dict[str, str], code: int, said: str
) -> None:

    small_tree(bare / "two", a=3, b=3)
    small_tree(bare / "lone", only=3)
    (bare / "empty").mkdir()
    for folder in ("x", "y"):
        (bare / "broken" / folder).mkdir(parents=True)
        (bare / "broken" / folder / "1.png").write_bytes(b"no image")
    before = sorted(path.name for path in (bare / "conf").iterdir())
    given = {"--labelled": "two", **options}
    done = hgnetv2(bare, "init", name, *(word for pair in given.items() for word in pair))
    assert done.exit_code == code, done.output
    assert re.search(said, done.output)
    assert len(done.output.strip().splitlines()) == 1
    assert sorted(path.name for path in (bare / "conf").iterdir()) == before


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("has", [[], ["amx_bf16"]])
def test_init_says_why_it_keeps_to_float32_where_bf16_is_slow(
    bare: Path, monkeypatch: pytest.MonkeyPatch, cuda: bool, has: list[str]
) -> None:
    monkeypatch.setattr(processor, "features", lambda: frozenset(has))
    monkeypatch.setattr(init, "found_device", lambda: "cuda" if cuda else "cpu")
    small_tree(bare / "two", a=3, b=3)
    said = hgnetv2(bare, "init", "cats", "--labelled", "two").output
    assert said.count("amp is off, not bf16") == (not cuda and not has)
    text = (bare / "conf" / "cats" / "parameters.yml").read_text(encoding="utf-8")
    assert f'amp: "{"bf16" if cuda else "off"}"' in text


def test_init_never_overwrites_an_environment(bare: Path) -> None:
    small_tree(bare / "two", a=3, b=3)
    assert hgnetv2(bare, "init", "cats", "--labelled", "two").exit_code == 0
    mine = bare / "conf" / "cats" / "parameters.yml"
    mine.write_text("# edited\n")
    done = hgnetv2(bare, "init", "cats", "--labelled", "two")
    assert done.exit_code == 2
    assert "conf/cats exists already" in done.output
    assert mine.read_text() == "# edited\n"


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize("teacher", [False, True])
def test_what_init_writes_is_valid_whatever_was_found(
    bare: Path, monkeypatch: pytest.MonkeyPatch, cuda: bool, pool: bool, test: bool, teacher: bool
) -> None:
    from hgnetv2_pipeline.project.config_loader import ProjectConfigLoader

    labelled = small_tree(bare / "__NAME__: 'two' \"words\"", a=12, b=3)
    monkeypatch.setattr(init, "found_device", lambda: "cuda" if cuda else "cpu")
    if teacher:
        (bare / "weights").mkdir()
        (bare / "weights" / "PPHGNet_small_ssld_pretrained.pdparams").write_bytes(b"")
    unlabelled = small_tree(bare / "pool", x=2) if pool else None
    write_environment(
        bare, "cats", labelled=labelled, pool=unlabelled, variant=None,
        test=small_tree(bare / "test", a=1, b=1) if test else None,
    )  # fmt: skip
    found = ProjectConfigLoader(
        bare / "conf", env="cats", base_env="base", default_run_env="sample",
        merge_strategy={"parameters": "soft", "globals": "soft"},
    )["parameters"]  # fmt: skip
    assert found["data"]["root"] == str(labelled.resolve())
    assert found["data"]["pool"] == ([str(unlabelled.resolve())] if unlabelled else [])
    assert (found["data"]["split"]["test"] == 0) == test
    assert found["variant"] == ("b4" if cuda else "b0")
    assert found["train_teacher"]["recipe"]["class_balance"] == "sampler"  # 12 to 3
    assert found["finetune"]["init"].startswith("ssld_stage1/" if pool else "import_weights/")
    assert found["train_teacher"]["arch"] == ("hgnet_small" if teacher else found["variant"])
    assert found["train"]["init"] == "scratch"


@pytest.mark.parametrize("held_out", [False, True])
def test_lists_of_several_labels_get_an_environment_that_trains_on_them(
    bare: Path, held_out: bool
) -> None:
    from hgnetv2_pipeline.project.config_loader import ProjectConfigLoader

    draw_squares(bare / "squares", "train", 30, seed=0, side=40)
    if held_out:
        draw_squares(bare / "squares", "test", 5, seed=1, side=40)
    done = hgnetv2(bare, "init", "squares", "--labelled", "squares")
    assert done.exit_code == 0, done.output
    assert f"found {35 if held_out else 30} labelled images of 3 classes" in done.output
    assert "kedro run --env squares  " in done.output
    found = ProjectConfigLoader(
        bare / "conf", env="squares", base_env="base", default_run_env="sample",
        merge_strategy={"parameters": "soft", "globals": "soft"},
    )["parameters"]  # fmt: skip
    assert found["data"]["layout"] == "multi_label"
    assert (found["data"]["split"]["test"] == 0) == held_out
    recipe = found["train"]
    assert (recipe["loss"]["name"], recipe["lr"], recipe["lr_batch"]) == ("bce", 1e-3, None)
    assert (recipe["optimizer"]["name"], recipe["class_balance"]) == ("adamw", "none")
    assert (found["finetune"]["loss"]["name"], found["finetune"]["lr"]) == ("bce", 3e-4)
    small_tree(bare / "pool", x=2)
    done = hgnetv2(bare, "init", "more", "--labelled", "squares", "--pool", "pool")
    assert done.exit_code == 2 and "SSLD mines for one label per image" in done.output


def test_a_survey_counts_as_ingestion_does(tmp_path: Path) -> None:
    from hgnetv2_pipeline.data.scan.folders import scan_folder_tree, scan_unlabelled

    tree = write_tree(tmp_path)
    found = survey(tree.labelled, tree.pool)
    scan = scan_folder_tree(tree.labelled)
    assert list(found.per_class) == scan.classes
    assert found.labelled == len(scan.samples) + len(scan.quarantined) == tree.n_labelled
    assert found.pool_archives == 1
    listed = len(scan_unlabelled(tree.pool).samples) + tree.n_bad_pool
    assert 0.5 * listed < found.pool_images < 2 * listed
    assert 48 <= found.short_side <= 64
    assert found.imbalance == (PER_CLASS["Äpfel rot"] + 3) / PER_CLASS["猫"]


def sizes(images: int, classes: int, pool: int, *, largest: int = 1, side: int = 400) -> Survey:
    each = images // classes
    counts = {str(number): each for number in range(classes)}
    counts["0"] *= largest
    return Survey(counts, pool, 0, side)


def chosen(found: Survey, *, cuda: bool, cores: int = 8, **more: Any) -> dict[str, Any]:
    given = {"variant": None, "test": False, "teacher_file": False, **more}
    return choose_defaults(found, cuda=cuda, cores=cores, **given)


def test_a_hundred_images_on_a_laptop_get_a_short_adamw_recipe() -> None:
    values = chosen(sizes(100, 3, 200), cuda=False)
    assert values["VARIANT"] == "b0"
    assert "adamw" in values["OPTIMIZER"]
    # At least 3 steps an epoch, and as many images as were enough for the sample.
    assert 8 <= values["BATCH"] <= 70 / 3
    assert values["EPOCHS"] * 70 >= 9_000
    assert values["STAGE1_EPOCHS"] == 60
    assert values["WORKERS"] <= 2


def test_five_thousand_images_show_stage_1_no_more_than_a_cpu_can_take() -> None:
    found = sizes(5_000, 20, 50_000)
    values, with_gpu = chosen(found, cuda=False), chosen(found, cuda=True)
    assert "adamw" in values["OPTIMIZER"]
    assert (values["BATCH"], values["EPOCHS"], with_gpu["EPOCHS"]) == (64, 90, 200)
    assert values["STAGE1_EPOCHS"] * 17_500 <= 310_000
    assert with_gpu["STAGE1_EPOCHS"] == 60
    assert (with_gpu["VARIANT"], with_gpu["AMP"]) == ("b4", "bf16")


def test_fifty_thousand_images_get_the_published_recipe() -> None:
    values = chosen(sizes(50_000, 200, 2_000_000), cuda=True, cores=128)
    assert "sgd" in values["OPTIMIZER"]
    assert (values["LR"], values["LR_BATCH"], values["BATCH"]) == (0.5, 1024, 128)
    assert (values["EPOCHS"], values["WARMUP"], values["EVAL_EVERY"]) == (200, 5, 1)
    assert (values["WORKERS"], values["SIZE"], values["RESIZE"]) == (16, 224, 232)
    assert (values["STAGE2_LR"], values["FINETUNE_LR"]) == (0.005, 0.05)


@pytest.mark.parametrize(("images", "classes", "pool", "mined"), [
    (100, 3, 200, 56), (5_000, 20, 50_000, 14_000), (50_000, 200, 2_000_000, 560_000),
])  # fmt: skip
def test_the_rule_of_mining_takes_the_published_share_of_the_pool(
    images: int, classes: int, pool: int, mined: int
) -> None:
    from hgnetv2_pipeline.mining.selection import default_target

    assert default_target(pool, classes) == mined


def test_official_teacher_weights_are_fine_tuned_not_trained_from_scratch() -> None:
    values = chosen(sizes(50_000, 200, 2_000_000), cuda=True, teacher_file=True)
    assert (values["ARCH"], values["MEMBERS"]) == ("hgnet_small", 1)
    assert values["TEACHER_LR"] == values["LR"] / 10
    assert values["TEACHER_EPOCHS"] < values["EPOCHS"]
    # The members are no students then, so the honest table needs a supervised one of its own.
    assert values["SUPERVISED"] == "[0]"


@pytest.mark.parametrize(("largest", "balance"), [(1, "none"), (3, "none"), (4, "sampler")])
def test_unequal_classes_are_drawn_equally_often(largest: int, balance: str) -> None:
    assert chosen(sizes(1_000, 10, 0, largest=largest), cuda=False)["BALANCE"] == balance


@pytest.mark.parametrize(("side", "size"), [(20, 64), (53, 64), (100, 96), (223, 192), (500, 224)])
def test_only_images_below_64_pixels_are_enlarged(side: int, size: int) -> None:
    values = chosen(sizes(1_000, 10, 0, side=side), cuda=False)
    assert values["SIZE"] == size
    assert values["RESIZE"] >= size


@pytest.mark.parametrize(
    ("side", "shapes", "milder"),
    [(20, [], True), (64, [], True), (100, [], False), (300, [], False), (64, [(192, 64)], True)],
)
def test_small_images_are_shown_in_larger_crops_and_without_randaugment(
    side: int, shapes: list[tuple[int, int]], milder: bool
) -> None:
    found = dataclasses.replace(sizes(100, 3, 200, side=side), shapes=shapes)
    values = chosen(found, cuda=False)
    changes = {"box": "torchvision", "scale": [0.6, 1.0], "randaugment": None} if milder else {}
    assert yaml.safe_load(values["AUGMENT"]) == {"name": "published", **changes}
    assert values["ANSWERS"] == ("clean" if milder else "online")


def test_init_sees_every_shape_where_they_take_turns(bare: Path) -> None:
    from PIL import Image

    for name in "ab":
        (bare / "turns" / name).mkdir(parents=True)
        for number in range(12):
            size = (28, 28) if number % 2 else (60, 20)
            Image.new("RGB", size, (9 * number, ord(name), 0)).save(
                bare / "turns" / name / f"{number:02}.png"
            )
    found = survey(bare / "turns", None)
    assert set(found.shapes) == {(28, 28), (60, 20)}
    said = hgnetv2(bare, "init", "turns", "--labelled", "turns").output
    assert "12 of each class" in said
    assert "val will have about 4 images, each of them 25.0 points" in said
    assert "pixels: images are enlarged to 64" in said


@pytest.mark.parametrize(("labelled", "clipped"), [(100, 3.0), (19_999, 3.0), (20_000, "null")])
def test_gradients_are_clipped_where_adamw_trains(labelled: int, clipped: object) -> None:
    values = chosen(sizes(labelled, 10, 0), cuda=False)
    assert values["CLIP"] == clipped
    assert ("adamw" in values["OPTIMIZER"]) == (clipped == 3.0)


@pytest.mark.parametrize(
    ("labelled", "val", "kept"),
    [(400, None, "last"), (6_600, None, "last"), (6_700, None, "best"), (400, 1_000, "best")],
)
def test_the_last_weights_are_kept_where_val_is_too_small_to_choose_by(
    labelled: int, val: int | None, kept: str
) -> None:
    found = sizes(labelled, 10, 5_000)
    if val is not None:
        found = dataclasses.replace(found, sets={"train": labelled, "val": val})
    assert chosen(found, cuda=False)["KEEP"] == kept


def test_a_filled_line_keeps_its_comment_where_it_was() -> None:
    assert _filled("  k: __SIZE__    # pixels", {"SIZE": 32}) == "  k: 32          # pixels"
    assert _filled("root: __ROOT__", {"ROOT": "a/__SIZE__"}) == "root: a/__SIZE__"


@pytest.mark.parametrize("name", ["hgnetv2_b1", "PPHGNetV2_B1", "B1"])
def test_init_takes_other_names_of_a_variant(bare: Path, name: str) -> None:
    small_tree(bare / "two", a=3, b=3)
    write_environment(bare, "mine", labelled=bare / "two", pool=None, test=None, variant=name)
    text = (bare / "conf" / "mine" / "globals.yml").read_text(encoding="utf-8")
    assert "variant: b1\n" in text


def test_errors_carry_the_exit_codes(bare: Path) -> None:
    with pytest.raises(ParameterError, match="taken by this project"):
        write_environment(bare, "own", labelled=bare, pool=None, test=None, variant=None)
    with pytest.raises(ParameterError, match="taken by this project"):  # one folder on some disks
        write_environment(bare, "Own", labelled=bare, pool=None, test=None, variant=None)
    with pytest.raises(DataError, match="at least two with images"):
        survey(bare / "conf", None)


@pytest.mark.parametrize("hidden", [False, True])
def test_init_proposes_a_background_where_images_are_transparent(bare: Path, hidden: bool) -> None:
    from PIL import Image

    small_tree(bare / "two", a=3, b=3)
    if hidden:
        path = next((bare / "two" / "a").iterdir())
        image = Image.open(path).convert("RGBA")
        image.putalpha(0)
        image.save(path.with_suffix(".png"))
    done = hgnetv2(bare, "init", "cats", "--labelled", "two")
    assert done.exit_code == 0, done.output
    assert (
        "images looked at have transparent pixels: data.alpha is white" in done.output
    ) == hidden
    text = (bare / "conf" / "cats" / "parameters.yml").read_text(encoding="utf-8")
    assert f"  alpha: {'white' if hidden else 'drop'}  " in text
    assert "__" not in text


@pytest.mark.parametrize(
    ("shapes", "short", "expected"),
    [
        ([(192, 64)] * 10, 64, {"SIZE": [64, 192], "RESIZE": 64, "FIT": "squash"}),
        ([(1200, 400)] * 9 + [(400, 400)], 400, {"SIZE": [128, 384], "FIT": "squash"}),
        ([(50, 300)] * 10, 50, {"SIZE": [288, 64], "FIT": "squash"}),
        ([(192, 64), (64, 192)] * 5, 64, {"SIZE": 192, "RESIZE": 192, "FIT": "pad"}),
        ([(900, 300)] * 3 + [(300, 300)] * 7, 300, {"SIZE": 224, "RESIZE": 224, "FIT": "pad"}),
        ([(900, 300)] * 2 + [(300, 300)] * 8, 300, {"SIZE": 224, "RESIZE": 232, "FIT": "crop"}),
        ([(1920, 1080)] * 10, 1080, {"SIZE": 224, "RESIZE": 232, "FIT": "crop"}),
        ([(64, 64)] * 10, 64, {"SIZE": 64, "RESIZE": 64, "FIT": "crop"}),
        ([(28, 28)] * 10, 28, {"SIZE": 64, "RESIZE": 64, "FIT": "crop"}),
        ([(60, 20)] * 10, 20, {"SIZE": [32, 96], "RESIZE": 32, "FIT": "squash"}),
        ([], 224, {"SIZE": 224, "RESIZE": 232, "FIT": "crop"}),
    ],
)
def test_what_of_an_image_is_seen_follows_from_the_shapes(
    shapes: list[tuple[int, int]], short: int, expected: dict[str, Any]
) -> None:
    found = dataclasses.replace(sizes(100, 3, 0, side=short), shapes=tuple(shapes))
    values = chosen(found, cuda=False)
    assert {name: values[name] for name in expected} == expected
    assert values["PAD_COLOUR"] == "null"
    assert values["RESIZE"] >= min(np.atleast_1d(values["SIZE"])), "the recipe can be made"


def test_bars_have_the_colour_of_the_background() -> None:
    shapes = ((192, 64), (64, 192)) * 5
    found = dataclasses.replace(
        sizes(100, 3, 0, side=64), shapes=shapes, transparent=3, looked_at=10
    )
    assert chosen(found, cuda=False)["PAD_COLOUR"] == [255, 255, 255]


def test_init_says_what_a_square_shows_and_writes_what_shows_all(bare: Path) -> None:
    from PIL import Image

    for name in "ab":
        (bare / "wide" / name).mkdir(parents=True)
        for number in range(4):
            exif = Image.Exif()
            exif[0x0112] = 6  # three times as high in the file, three times as wide to look at
            image = Image.new("RGB", (40, 120), (number * 9, ord(name), 0))
            image.save(bare / "wide" / name / f"{number}.jpg", exif=exif)
    done = hgnetv2(bare, "init", "wide", "--labelled", "wide")
    assert done.exit_code == 0, done.output
    assert "width to height is 3.0:1 at the median" in done.output
    assert "shows 33% of such an image at most" in done.output
    assert "8 of 8 images looked at would lose over half" in done.output
    assert (
        "image_size is [32, 128], fit squash" in done.output and "at 32x128 pixels" in done.output
    )
    read = yaml.safe_load((bare / "conf" / "wide" / "parameters.yml").read_text("utf-8"))
    recipe = read["train_teacher"]["recipe"]
    assert (recipe["image_size"], recipe["fit"]) == ([32, 128], "squash")
