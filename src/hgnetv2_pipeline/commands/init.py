"""``hgnetv2 init``: look at a user's folders and write an environment with defaults that fit them.

The look is ``survey``, the rules are ``defaults``; here they are asked, and ``conf/NAME`` is
written from the template ``conf/own``.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hgnetv2_pipeline import ownership
from hgnetv2_pipeline.commands.checks import check_test
from hgnetv2_pipeline.commands.defaults import choose_defaults
from hgnetv2_pipeline.commands.survey import Asked, Survey, is_list_given, survey
from hgnetv2_pipeline.data.scan.layouts import Layout, TwoReadingsError
from hgnetv2_pipeline.devices import found_device
from hgnetv2_pipeline.errors import DataError, ParameterError, unknown_name
from hgnetv2_pipeline.processor import available_cpus
from hgnetv2_pipeline.variants import VARIANTS, variant_name
from hgnetv2_pipeline.weights.packages import installed_packages

RESERVED = {"base", "sample", "imagenet", "own", "local"}


def write_environment(
    project: Path,
    name: str,
    *,
    labelled: Path | Sequence[Path],
    pool: Path | None,
    test: Path | None,
    variant: str | None,
    asked: Asked = Asked(),  # noqa: B008
) -> tuple[Path, Survey, dict[str, Any]]:
    """Write ``conf/NAME`` from the template ``conf/own``, whole or not at all, and DVC's stages.

    Returns the folder, what was found, and the values chosen.
    """
    variant = variant_name(variant) if variant else variant
    if variant is not None and variant not in VARIANTS:
        raise unknown_name("variant", variant, VARIANTS, "--variant")
    target = new_environment(project, name)
    roots = [labelled] if isinstance(labelled, Path) else list(labelled)
    _check_folders(roots, pool, test, asked)
    try:
        found = survey(roots, pool, asked)
    except TwoReadingsError as error:
        raise DataError(_both_commands(error, name, roots, pool, test)) from error
    layout = found.layout
    assert layout is not None
    _check_beside(found, roots, pool, test)
    if test is not None:
        check_test(test, list(found.per_class), layout.class_from, asked.trusted)
    chosen = choose_defaults(
        found,
        variant=variant,
        test=test is not None,
        cuda=found_device() == "cuda",
        cores=available_cpus(),
        teacher_file=(project / "weights" / "PPHGNet_small_ssld_pretrained.pdparams").is_file(),
        packaged=installed_packages(),
    )
    _fill_template(
        project,
        target,
        chosen | _own_words(name, found, pool, test) | _arranged(layout, roots, asked),
    )
    if (project / "dvc.yaml").is_file():
        from hgnetv2_pipeline.project.stages import write_stages

        write_stages(project, name)
    return target, found, chosen


def new_environment(project: Path, name: str) -> Path:
    """The folder that ``conf/NAME`` will be; ParameterError where it cannot."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise ParameterError(f"NAME {name!r}: use letters, digits, _ and -, a letter first")
    if name.lower() in RESERVED:  # Base is base where a file system ignores case
        raise ParameterError(f"NAME {name!r} is taken by this project; choose another")
    target = project / "conf" / name
    if target.exists():
        raise _taken(name)
    return target


def _taken(name: str) -> ParameterError:
    return ParameterError(f"conf/{name} exists already: edit it, or choose another NAME")


def _both_commands(
    error: TwoReadingsError, name: str, roots: Sequence[Path], pool: Path | None, test: Path | None
) -> str:
    """What was seen, and the command of each reading."""
    given = [("--labelled", root) for root in roots] + [("--pool", pool), ("--test", test)]
    words = " ".join(f"{option} {shlex.quote(str(path))}" for option, path in given if path)
    commands = "; or ".join(
        f"{reading}: hgnetv2 init {name} {words} --{key.replace('_', '-')} {value}"
        for reading, key, value in error.readings
    )
    return f"{error.seen}; {commands}"


def _check_folders(
    roots: Sequence[Path], pool: Path | None, test: Path | None, asked: Asked
) -> None:
    """Refuse folders that are not there or cannot be in a configuration."""
    if test is not None and not test.is_dir():
        reason = "is not a folder" if test.exists() else "does not exist"
        raise DataError(f"--test {test} {reason}")
    for folder in asked.trusted:
        if not folder.is_dir():
            raise DataError(f"--trust {folder} is not a folder")
    named = [("--labelled", root) for root in roots] + [("--pool", pool), ("--test", test)]
    for option, path in [*named, ("--lists", asked.lists)]:
        if path is not None and "${" in str(path.resolve()):
            # In a configuration that names a value to look up, which a path never does.
            raise ParameterError(f"{option} {path}: rename it, ${{ cannot be in a path")


def _check_beside(
    found: Survey, roots: Sequence[Path], pool: Path | None, test: Path | None
) -> None:
    """Refuse a pool or test set that does not go with the layout of the labelled images."""
    layout = found.layout
    assert layout is not None
    if found.several and (pool or test):
        raise ParameterError(
            f"{'--pool' if pool else '--test'} with lists of several labels in {roots[0]}: SSLD "
            "mines for one label per image, and test_list.txt beside the others is the final test"
        )
    if test is not None and "test" in layout.sets:
        raise ParameterError(
            f"--test {test}, but {roots[0]} has a test set of its own ({layout.why}); leave one out"
        )
    for option, folder in (("--pool", pool), ("--test", test)):
        for root in roots:
            inside = folder is not None and folder.resolve().is_relative_to(root.resolve())
            if inside and layout.name == "folders":
                raise DataError(
                    f"{option} {folder} is inside --labelled {root}, where every folder is a "
                    "class; move one of the two out"
                )


def _arranged(layout: Layout, roots: Sequence[Path], asked: Asked) -> dict[str, Any]:
    """What the template says of the arrangement of the images: where they are, which layout."""
    lists = roots[0] if is_list_given(roots) else asked.lists
    folders = [roots[0].parent] if is_list_given(roots) else roots
    places: Any = [str(root.resolve()) for root in folders]
    return {
        "LAYOUT": layout.name,
        "LABELLED": _yaml(places if len(places) > 1 else places[0]),
        "LIST_ROOT": _yaml(str(lists.resolve()) if lists else None),
        "LISTS": _yaml(
            {split: layout.lists.get(split) for split in ("train", "val", "test")}
            | {"class_map": layout.class_map}
        ),
        "DELIMITER": _yaml(layout.delimiter),
        "COLUMNS": _yaml(asdict(layout.columns)),
        "CLASS_FROM": layout.class_from,
        "TRUSTED": _yaml([str(folder.resolve()) for folder in asked.trusted]),
    }


def _yaml(value: Any) -> str:
    # JSON is YAML, whatever quotes, colons or non-ASCII letters a path holds.
    return json.dumps(value, ensure_ascii=False)


def _own_words(name: str, found: Survey, pool: Path | None, test: Path | None) -> dict[str, Any]:
    """What the template says of this environment besides the values chosen: names and folders."""
    return {
        "NAME": name,
        "COMMAND": f"kedro run --env {name}",
        "POOL": _yaml([str(pool.resolve())] if pool else []),
        "TEST": _yaml(str(test.resolve()) if test else None),
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
