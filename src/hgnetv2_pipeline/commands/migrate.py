"""``hgnetv2 migrate``: a training of PaddleClas, from its YAML to an environment here.

What each of its keys is here, ``paddleclas`` knows. Nothing is dropped without a word: a key has a
counterpart, is so here anyway, or is listed with the nearest thing, in the file that is written; a
key that is not known, or a value that would train something else, refuses the file.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from hgnetv2_pipeline.commands.paddleclas import (
    IMPLIED,
    ORDER,
    REQUIRED,
    UNSAID,
    Answer,
    PaddleConfig,
    rule_of,
)
from hgnetv2_pipeline.commands.weights import project_folder
from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.foreign import foreign_file
from hgnetv2_pipeline.printable import echo, shorten

_MAX_YAML = 1 << 20
_MAX_DEPTH = 20
_LISTS = {"ImageNetDataset": ("imagenet", "train_list.txt", "val_list.txt"),
          "MultiLabelDataset": ("multi_label", "train_list.txt", "val_list.txt")}  # fmt: skip


@dataclass(frozen=True)
class Migration:
    """A YAML as what it is here: ``values`` by dotted parameters, ``answers`` by its keys."""

    file: str
    block: str
    values: dict[str, Any]
    answers: dict[str, tuple[Any, Answer]]

    @property
    def pipeline(self) -> str:
        return self.block.partition(".")[0]

    def listed(self, kind: str) -> list[str]:
        """A line for each key of that kind: its value, and what it is here."""
        return [
            f"{key}: {shorten(_flow(value), 60)} -> {answer.words}"
            for key, (value, answer) in self.answers.items()
            if answer.kind == kind
        ]


def read_source(path: Path, changes: Iterable[str] = ()) -> PaddleConfig:
    """The keys of a YAML of PaddleClas, after ``changes`` (``Global.epochs=30``, as its ``-o``)."""
    import yaml

    from hgnetv2_pipeline.project.config_loader import check_yaml

    with foreign_file(path, DataError):
        if not path.is_file():
            raise DataError(f"there is no file {path}")
        text = path.read_bytes()[: _MAX_YAML + 1]
        if len(text) > _MAX_YAML:
            raise DataError(f"{path} has more than {_MAX_YAML:,} bytes: no YAML of a training")
        check_yaml(text, str(path))
        config = yaml.safe_load(text)
    if not isinstance(config, dict) or not {"Global", "Arch"} <= config.keys():
        raise DataError(f"{path} is no training of PaddleClas: it needs Global, Arch and more")
    for change in changes:
        _change(config, change)
    found: dict[str, Any] = {}
    for key, value in _flat(config, "", 0):
        if key in found:
            raise DataError(
                f"{path}: {key} twice; an operation or loss of a name is done once here"
            )
        found[key] = value
    missing = [key for key in REQUIRED if found.get(key) is None]
    if missing:
        raise DataError(f"{path} is no training of PaddleClas: it lacks {', '.join(missing)}")
    for key, value in IMPLIED.items():
        block = key.rpartition(".")[0]
        if key not in found and any(name.startswith(f"{block}.") for name in found):
            found[key] = value
    return PaddleConfig(found)


def _change(config: Any, change: str) -> None:
    """One of PaddleClas's ``-o``: dotted keys, numbers of lists among them, and a value of YAML."""
    import yaml

    key, equals, text = change.partition("=")
    if not equals:
        raise ParameterError(f"-o {change}: write KEY=VALUE, as for PaddleClas")
    *path, last = key.split(".")
    try:
        for part in path:
            config = config[int(part)] if isinstance(config, list) else config.setdefault(part, {})
        config[int(last) if isinstance(config, list) else last] = yaml.safe_load(text)
    except (LookupError, TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise ParameterError(f"-o {change}: the file has no such place ({error})") from None


def _flat(value: Any, key: str, depth: int) -> Iterator[tuple[str, Any]]:
    """(dotted key, value); of a list of operations their names stand for their numbers."""
    if depth > _MAX_DEPTH:
        raise DataError(f"{key} is nested too deep for a training of PaddleClas")
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name), depth + 1)
    elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        names = [str(name) for one in value for name in one]
        known = [name for name in names if name in ORDER]
        if known != sorted(known, key=ORDER.index):
            raise DataError(f"{key}: {', '.join(names)}; here the order is {', '.join(ORDER)}")
        for one in value:
            yield from _flat(one, key, depth + 1)
    else:
        yield key, value


def plan_migration(
    source: PaddleConfig, file: str, *, gpus: int | None = None, leave_out: Iterable[str] = ()
) -> Migration:
    """What each key of ``source`` is here. Raises ``ParameterError`` with all that is refused."""
    block, leave_out = source.block, set(leave_out)
    answers: dict[str, tuple[Any, Answer]] = {}
    values = {f"{block}{key[1:]}": value for key, value in UNSAID.items()}
    refused = []
    for key, value in source.values.items():
        answer = _answer(key, value, source)
        if answer.kind == "refused" and key in leave_out:
            answer = Answer("differs", f"left out, as --leave-out says ({answer.words})")
        elif answer.kind == "refused":
            refused.append(f"{key}: {answer.words}")
        named = {re.sub("^@", block, name): one for name, one in answer.values.items()}
        words = answer.words.replace("@.", f"{block}.")
        if answer.kind == "set":
            settings = ", ".join(f"{name}={_flow(one)}" for name, one in named.items())
            words = f"{settings} ({words})" if words else settings
        answers[key] = value, replace(answer, words=words)
        values |= named
    if unknown := leave_out - answers.keys():
        raise ParameterError(f"--leave-out {', '.join(sorted(unknown))}: {file} has no such key")
    if refused:
        more = f"; and {len(refused) - 8} more" if len(refused) > 8 else ""
        raise ParameterError(
            f"{file}: {len(refused)} keys have nothing here that would do the same: "
            f"{'; '.join(refused[:8])}{more}. Change them (-o KEY=VALUE), or go on without: "
            "--leave-out KEY"
        )
    if gpus is not None:
        values[f"{block}.lr_batch"] = gpus * values[f"{block}.batch_size"]
    _refuse_lookups(values)
    return Migration(file, block, values, answers)


def _answer(key: str, value: Any, source: PaddleConfig) -> Answer:
    rule = rule_of(key)
    if rule is None:
        if re.fullmatch(
            r"DataLoader\.(Train|Eval)\.dataset\.(name|image_root|cls_label_path)", key
        ):
            return _data(key, value, source)
        return Answer("refused", "it is not known here")
    try:
        return rule(value, source)
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(getattr(error, "exit_code", None), int):
            raise
        return Answer("refused", f"{shorten(_flow(value), 60)} cannot be read ({error})")


def _data(key: str, value: Any, source: PaddleConfig) -> Answer:
    """Lists and their folder: ``data.root`` has to hold both lists, and what they name."""
    part = key.split(".")[1]
    at = f"DataLoader.{part}.dataset"
    kind = source.values.get(f"{at}.name")
    if kind not in _LISTS:
        return Answer("refused", f"dataset {kind!r}; here are {', '.join(_LISTS)}")
    layout, *names = _LISTS[kind]
    if key.endswith("name"):
        return Answer("set", values={"data.layout": layout})
    wanted = names[part == "Eval"]
    # Of stage 1 the validation images say where the labelled ones are: its own list has mined ones.
    root = Path(str(source.values.get("DataLoader.Eval.dataset.image_root") or "."))
    if key.endswith("image_root"):
        there = root.resolve() if root.is_dir() else root
        values = {"data.root": str(there)} if part == "Eval" else {}
        if Path(str(value)) != root:
            return Answer("differs", f"data.root is {root}, that of Eval; mining makes the list")
        return Answer("set" if root.is_dir() else "differs",
                      f"data.root, relative to the project: put or link {wanted} and images there, "
                      "or name their folder: --params data.root=DIR", values)  # fmt: skip
    listed = Path(str(value))
    if listed == root / wanted:
        return Answer("same", f"data.root/{wanted}")
    if source.block == "ssld_stage1" and part == "Train":
        return Answer("differs", "labelled and mined images: the list that --pipeline mining makes "
                      "of data.pool")  # fmt: skip
    return Answer("differs", f"data.root/{wanted}: copy or link the list there")


def _refuse_lookups(values: Mapping[str, Any]) -> None:
    """No text of the file becomes a value that the configuration looks up."""
    for name, value in values.items():
        if "${" in json.dumps(value):
            raise ParameterError(f"{name}: {shorten(_flow(value))}: ${{ cannot be in a value")


def _flow(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


# --- writing --------------------------------------------------------------------------------------


def joined(migrations: Iterable[Migration]) -> dict[str, Any]:
    """The values of all files; ``ParameterError`` where two of them say different things."""
    values: dict[str, Any] = {}
    said: dict[str, str] = {}
    for one in migrations:
        for name, value in one.values.items():
            if name in values and values[name] != value:
                raise ParameterError(
                    f"{name} is {_flow(values[name])} in {said[name]} and {_flow(value)} in "
                    f"{one.file}: migrate them into environments of their own, or change one (-o)"
                )
            values[name], said[name] = value, one.file
    return values


def write_migration(project: Path, name: str, migrations: list[Migration]) -> Path:
    """Write ``conf/NAME``, whole or not at all, once it says what it should when it is loaded."""
    from hgnetv2_pipeline import ownership
    from hgnetv2_pipeline.commands.init import new_environment

    values = joined(migrations)
    target = new_environment(project, name)
    with ownership.make_aside(target) as folder:
        conf = folder / "conf"
        shutil.copytree(project / "conf" / "base", conf / "base")
        (conf / name).mkdir()
        for part, text in _files(name, migrations, values).items():
            (conf / name / part).write_text(text, encoding="utf-8")
        _check_loaded(conf, project, name, values)
        if target.exists():  # by another command, in the meantime
            raise ParameterError(f"conf/{name} exists already: choose another --name")
        (conf / name).rename(target)
    return target


def _files(name: str, migrations: list[Migration], values: Mapping[str, Any]) -> dict[str, str]:
    """globals.yml (who a run is) and parameters.yml (the rest, and what differs)."""
    import yaml

    values = dict(values)
    names = {"dataset": name, "model": "best"}
    names |= {key: values.pop(key) for key in ("variant", "seed") if key in values}
    if teacher := values.get("train_teacher.arch"):
        names["teacher"] = teacher
    head = []
    for one in migrations:
        differs = one.listed("differs")
        head += [
            f"{shorten(one.file)} of PaddleClas, by hgnetv2 migrate.",
            f"Run it: kedro run --env {name} --pipeline {one.pipeline}",
            f"{len(differs)} of its {len(one.answers)} keys have no counterpart; the nearest is:",
            *(f"  {line}" for line in differs),
        ]
    comment = "".join(f"# {line}\n" for line in head)
    return {
        "globals.yml": yaml.safe_dump(names, sort_keys=False, allow_unicode=True),
        "parameters.yml": comment
        + yaml.safe_dump(_nested(values), sort_keys=False, allow_unicode=True),
    }


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted parameters as blocks inside one another."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split(".")
        block = found
        for part in path:
            block = block.setdefault(part, {})
        block[last] = value
    return found


def _check_loaded(conf: Path, project: Path, name: str, values: Mapping[str, Any]) -> None:
    """What is written is valid, and every value arrives where it should."""
    from hgnetv2_pipeline.project.config_loader import LOADER_ARGUMENTS, ProjectConfigLoader

    loader = ProjectConfigLoader(conf, env=name, project=project, **LOADER_ARGUMENTS)
    loaded = loader["parameters"]
    for parameter, wanted in values.items():
        found: Any = loaded
        for part in parameter.split("."):
            found = found[part]
        if json.loads(_flow(found)) != json.loads(_flow(wanted)):
            raise ParameterError(
                f"{parameter} comes out as {_flow(found)} and not as {_flow(wanted)}: a fault of "
                "hgnetv2 migrate"
            )


@click.command(short_help="Write conf/NAME from a training of PaddleClas.")
@click.argument("files", nargs=-1, required=True, metavar="FILE.yaml...",
                type=click.Path(path_type=Path))  # fmt: skip
@click.option("--name", help="The environment; else the name of the first file.")
@click.option("-o", "changes", multiple=True, metavar="KEY=VALUE",
              help="A change of the YAML, as PaddleClas takes it.")  # fmt: skip
@click.option("--gpus", type=click.IntRange(1, 1024),
              help="How many GPUs its learning rate is meant for; it is scaled to those there are. "
              "Else it is taken as it is, as PaddleClas does.")  # fmt: skip
@click.option("--leave-out", multiple=True, metavar="KEY",
              help="Go on without a key that is refused.")  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="Say what every key is here.")
def migrate(
    files: tuple[Path, ...],
    name: str | None,
    changes: tuple[str, ...],
    gpus: int | None,
    leave_out: tuple[str, ...],
    everything: bool,
) -> None:
    """Write conf/NAME from a training of PaddleClas: PPHGNetV2_B0 to B6, its SSLD stages, PPHGNet.

    Keys without a counterpart are listed with the nearest thing, here and in the file written; what
    would train something else is refused. Both stages of SSLD make one environment.

    \b
    hgnetv2 migrate PPHGNetV2_B4.yaml --gpus 8 -o Global.epochs=30
    hgnetv2 migrate PPHGNetV2_B4_ssld_stage1.yaml PPHGNetV2_B4_ssld_stage2.yaml --name ssld
    """
    project = project_folder()
    migrations = [
        plan_migration(read_source(file, changes), file.name, gpus=gpus, leave_out=leave_out)
        for file in files
    ]
    name = name or re.sub(r"[^A-Za-z0-9_-]", "_", files[0].stem)
    target = write_migration(project, name, migrations)
    for one in migrations:
        numbers = {kind: len(one.listed(kind)) for kind in ("set", "same", "differs")}
        echo(
            f"{one.file}: {len(one.answers)} keys, {numbers['set']} set, {numbers['same']} the "
            f"same here, {numbers['differs']} without a counterpart:"
        )
        for kind in ("set", "same", "differs") if everything else ("differs",):
            for line in one.listed(kind):
                echo(f"  {kind + '  ' if everything else ''}{line}")
        if gpus is None:
            echo(
                f"  {one.block}.lr {one.values[f'{one.block}.lr']:g} is taken as it is, on however "
                "many GPUs; --gpus N scales it from those that it is meant for"
            )
    echo(f"wrote {target.relative_to(project)}/parameters.yml: read it, change what you like")
    for one in migrations:
        echo(f"next: kedro run --env {name} --pipeline {one.pipeline}")
