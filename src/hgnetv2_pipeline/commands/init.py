"""``hgnetv2 init``: look at a user's folders and write an environment with defaults that fit them.

The look is ``survey``, the rules are ``defaults``; here they are asked, and ``conf/NAME`` is
written from the template ``conf/own``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hgnetv2_pipeline import ownership
from hgnetv2_pipeline.commands.defaults import choose_defaults
from hgnetv2_pipeline.commands.survey import Survey, survey
from hgnetv2_pipeline.errors import DataError, ParameterError, unknown_name
from hgnetv2_pipeline.processor import available_cpus
from hgnetv2_pipeline.variants import VARIANTS, variant_name
from hgnetv2_pipeline.weights.packages import installed_packages

RESERVED = {"base", "sample", "imagenet", "own", "local"}


def write_environment(
    project: Path,
    name: str,
    *,
    labelled: Path,
    pool: Path | None,
    test: Path | None,
    variant: str | None,
) -> tuple[Path, Survey, dict[str, Any]]:
    """Write ``conf/NAME`` from the template ``conf/own``, whole or not at all, and DVC's stages.

    Returns the folder, what was found, and the values chosen.
    """
    variant = variant_name(variant) if variant else variant
    if variant is not None and variant not in VARIANTS:
        raise unknown_name("variant", variant, VARIANTS, "--variant")
    target = new_environment(project, name)
    _check_folders(labelled, pool, test)
    found = survey(labelled, pool)
    if found.several and (pool or test):
        raise ParameterError(
            f"{'--pool' if pool else '--test'} with lists of several labels in {labelled}: SSLD "
            "mines for one label per image, and test_list.txt beside the others is the final test"
        )
    chosen = choose_defaults(
        found,
        variant=variant,
        test=test is not None or (found.several and (labelled / "test_list.txt").is_file()),
        cuda=_cuda(),
        cores=available_cpus(),
        teacher_file=(project / "weights" / "PPHGNet_small_ssld_pretrained.pdparams").is_file(),
        packaged=installed_packages(),
    )
    _fill_template(project, target, chosen | _own_words(name, found, labelled, pool, test))
    if (project / "dvc.yaml").is_file():
        from hgnetv2_pipeline.project.stages import write_stages

        write_stages(project, name)
    return target, found, chosen


def new_environment(project: Path, name: str) -> Path:
    """The folder that ``conf/NAME`` will be; ParameterError where it cannot."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise ParameterError(f"NAME {name!r}: use letters, digits, _ and -, a letter first")
    if name in RESERVED:
        raise ParameterError(f"NAME {name!r} is taken by this project; choose another")
    target = project / "conf" / name
    if target.exists():
        raise _taken(name)
    return target


def _taken(name: str) -> ParameterError:
    return ParameterError(f"conf/{name} exists already: edit it, or choose another NAME")


def _check_folders(labelled: Path, pool: Path | None, test: Path | None) -> None:
    """Refuse folders that cannot be in a configuration, or hold one another."""
    if test is not None and not test.is_dir():
        raise DataError(f"--test {test} is not a folder")
    for option, folder in (("--labelled", labelled), ("--pool", pool), ("--test", test)):
        if folder is not None and "${" in str(folder.resolve()):
            # In a configuration that names a value to look up, which a path never does.
            raise ParameterError(f"{option} {folder}: rename it, ${{ cannot be in a path")
    for option, folder in (("--pool", pool), ("--test", test)):
        if folder is not None and folder.resolve().is_relative_to(labelled.resolve()):
            raise DataError(
                f"{option} {folder} is inside --labelled {labelled}, where every folder is a "
                "class; move one of the two out"
            )


def _own_words(
    name: str, found: Survey, labelled: Path, pool: Path | None, test: Path | None
) -> dict[str, Any]:
    """What the template says of this environment besides the values chosen: names and folders."""
    # JSON strings are YAML strings, whatever quotes, colons or non-ASCII letters a path holds.
    return {
        "NAME": name,
        "COMMAND": f"kedro run --env {name}" + ("" if pool else " --pipeline train"),
        "LABELLED": json.dumps(str(labelled.resolve()), ensure_ascii=False),
        "POOL": json.dumps([str(pool.resolve())] if pool else [], ensure_ascii=False),
        "TEST": json.dumps(str(test.resolve()), ensure_ascii=False) if test else "null",
        "FINETUNE_INIT": (
            "ssld_stage1/${identity:variant}/${identity:run}"
            if pool
            else "import_weights/${identity:variant}/ssld_stage1"
        ),
        "SUMMARY": (
            f"{found.labelled:,} labelled images of {len(found.per_class)} classes (largest "
            f"{found.imbalance:.1f} times the smallest), {found.pool}, short side "
            f"{found.short_side}."
        ),
    }


def _fill_template(project: Path, target: Path, values: Mapping[str, Any]) -> None:
    """Write ``target`` from the template, whole or not at all."""
    with ownership.make_aside(target) as folder:
        aside = folder / target.name
        aside.mkdir()
        for source in sorted((project / "conf" / "own").glob("*.yml")):
            lines = source.read_text(encoding="utf-8").splitlines()
            if source.name == "globals.yml":
                lines = lines[2:]
            text = "".join(_filled(line, values) + "\n" for line in lines)
            (aside / source.name).write_text(text, encoding="utf-8")
        if target.exists():  # by another command, in the meantime
            raise _taken(target.name)
        aside.rename(target)


def _filled(line: str, values: Mapping[str, Any]) -> str:
    """A line of the template with its values; a comment behind them stays in its column."""

    def fill(text: str) -> str:
        # In one pass: a path may itself hold what looks like a placeholder.
        return re.sub(r"__([A-Z0-9_]+?)__", lambda found: str(values[found[1]]), text)

    code, mark, comment = line.partition("  # ")
    if not mark:
        return fill(line)
    return f"{fill(code.rstrip()):<{len(code)}}  # {fill(comment)}"


def _cuda() -> bool:
    """Whether an NVIDIA GPU is at hand, without torch's seconds of import."""
    return Path("/proc/driver/nvidia/version").exists()
