"""Configuration: YAML holds the values, ``RunParams`` the types and limits, one table the paths."""

from __future__ import annotations

import copy
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kedro.config import OmegaConfigLoader
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hgnetv2_pipeline.errors import ParameterError, unknown_name
from hgnetv2_pipeline.project.given import with_our_variant
from hgnetv2_pipeline.project.identity import Identity, resolve, result_name

# Kedro's settings hand these to the loader below, and so does whoever makes one without Kedro.
LOADER_ARGUMENTS: dict[str, Any] = {
    "base_env": "base",
    # A bare `kedro run` is the embedded sample; it says so in a banner.
    "default_run_env": "sample",
    "merge_strategy": {"parameters": "soft", "globals": "soft"},
}
PUBLISHED = "published"
_IDENTITY_KEYS = ("variant", "dataset", "seed", "teacher", "download", "run", "model")
# Values that one file may come to once its anchors are written out; ours have some hundreds.
_MOST_VALUES, _DEEPEST = 100_000, 50
_PLAIN_KINDS = ("str", "int", "float", "bool", "null", "seq", "map")
_PLAIN_TAGS = {"!", *(f"tag:yaml.org,2002:{kind}" for kind in _PLAIN_KINDS)}
_WHERE = "--conf-source FOLDER or the archive that kedro package writes"


def open_configuration(conf_source: str) -> tuple[Any, str]:
    """The file system (fsspec) that holds the configuration, and the path of its root there.

    ``conf_source`` is a folder, a tar or zip as ``kedro package`` writes it, or an address. Raises
    ``ParameterError`` for one that is not there or cannot be read.
    """
    here = "://" not in conf_source
    if here and not Path(conf_source).exists():
        raise ParameterError(
            f"there is no configuration at {conf_source}: run in the project's folder, or name "
            f"another ({_WHERE})"
        )
    try:
        files, protocol = OmegaConfigLoader._initialise_filesystem_and_protocol(conf_source)
        if protocol in ("tar", "zip"):
            tops = files.ls("", detail=False)
            return files, tops[-1] if tops else ""
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        raise ParameterError(f"{conf_source} cannot be read: {error} ({_WHERE})") from error
    if protocol == "file" and not Path(conf_source).is_dir():
        raise ParameterError(f"{conf_source} is neither a folder nor a tar or zip ({_WHERE})")
    return files, conf_source if here else files._strip_protocol(conf_source).rstrip("/")


class ProjectConfigLoader(OmegaConfigLoader):
    """OmegaConfigLoader that knows who the run is and refuses what it cannot mean.

    ``${folder:NAME}`` and ``${identity:NAME}`` resolve in catalog and parameters alike, from
    ``globals.yml`` overridden by ``--params``; the parameters come out validated, with the key
    ``this_run`` (``project.run.Run``) added. Kedro itself accepts ``varient=b4`` and ``variant=b7``
    without a word.

    ``project`` is the folder of data/ and weights/; by default that which holds the folder
    ``conf_source``, and the current one for an archive. Kedro's session sets its own.
    """

    def __init__(
        self, conf_source: str | Path, *args: Any, project: Path | None = None, **kwargs: Any
    ) -> None:
        _, self._root = open_configuration(str(conf_source))
        folder = Path(conf_source)
        self._project = project or (folder.resolve().parent if folder.is_dir() else Path.cwd())
        self._parameters: dict[str, Any] | None = None
        self._checked: set[str] = set()
        with _in_one_line():
            super().__init__(str(conf_source), *args, **kwargs)
        self.runtime_params = with_our_variant(self.runtime_params or {})
        self._refuse_unknown_environment()

    def _refuse_unknown_environment(self) -> None:
        """Kedro says of a mistyped ``--env`` that a path is no valid directory."""
        found = self._fs.ls(self._root, detail=True)
        folders = {Path(entry["name"]).name for entry in found if entry["type"] == "directory"}
        if self.base_env not in folders:
            raise ParameterError(f"{self.conf_source} holds no folder {self.base_env}/ ({_WHERE})")
        known = sorted(folders - {self.base_env, "own", "local"})
        if self.env is not None and self.env not in known:
            raise unknown_name(
                "environment",
                self.env,
                known,
                "--env ...; for your own images: hgnetv2 init NAME --labelled DIR --pool DIR",
            )

    def _read_dir_configs(self, conf_path: str, patterns: Any, *args: Any, **kwargs: Any) -> Any:
        """Kedro's, after a look for what would not end well when it is read."""
        paths = {path for pattern in patterns for path in self._fs.glob(f"{conf_path}/{pattern}")}
        for path in sorted(paths - self._checked):
            if path.endswith((".yml", ".yaml")) and self._fs.isfile(path):
                check_yaml(self._fs.read_bytes(path), path)
            self._checked.add(path)
        return super()._read_dir_configs(conf_path, patterns, *args, **kwargs)

    @property
    def project(self) -> Path:
        """The folder of data/ and weights/."""
        return self._project

    @project.setter
    def project(self, folder: Path) -> None:
        self._project = Path(folder)
        self._parameters = None

    @property
    def identity(self) -> Identity:
        """The names and paths of this run."""
        known = {**self._globals, **(self.runtime_params or {})}
        return resolve(
            {key: known.get(key) for key in _IDENTITY_KEYS},
            project=self.project.resolve(),
            environment=self.env or self.default_run_env,
        )

    def _folder(self, name: str) -> str:
        return str(self.identity.folder(name))

    def _identity_name(self, name: str) -> Any:
        return getattr(self.identity, name)

    def _result_name(self, pipeline: str) -> str:
        """The name that a pipeline gives its result file: evaluation's says set and engine."""
        params = self["parameters"]
        own = params[pipeline]
        return result_name(
            params["split"],
            own["engine"],
            own["precision"],
            resize_short=own["resize_short"],
            fast=own["fast"],
        )

    def _with_recipe(self, params: dict[str, Any], typed: dict[str, Any]) -> dict[str, Any]:
        """Lay the file of ``recipe`` over what base and environment say, below ``--params``."""
        recipe = params.get("recipe", PUBLISHED)
        if recipe == PUBLISHED:
            return params
        files = self._fs.glob(f"{self._root}/{self.base_env}/recipe_*.yml")
        found = {Path(file).stem.removeprefix("recipe_"): file for file in files}
        if recipe not in found:
            raise unknown_name("recipe", recipe, [PUBLISHED, *sorted(found)], "--params recipe=...")
        text = self._fs.read_bytes(found[recipe])
        check_yaml(text, found[recipe])
        layers = (params, OmegaConf.create(text.decode()), typed)
        merged = OmegaConf.merge(*map(OmegaConf.create, layers))
        return OmegaConf.to_container(merged, resolve=True)  # type: ignore[return-value]

    def usual_parameters(self) -> dict[str, Any]:
        """What ``conf/base`` and the recipe say for everyone: no environment, nothing typed."""
        from hgnetv2_pipeline.project.params import complete_recipes, validate

        recipe = self["parameters"]["recipe"]
        base = OmegaConfigLoader(
            self.conf_source, base_env=self.base_env, default_run_env=self.base_env
        )
        usual = self._with_recipe({**base["parameters"], "recipe": recipe}, {})
        return validate(complete_recipes(usual, {}), environment=str(self.base_env))

    def _register(self) -> None:
        # Several loaders can live in one process (Kedro-Viz, tests); resolvers are global there.
        OmegaConf.register_new_resolver("folder", self._folder, replace=True)
        OmegaConf.register_new_resolver("identity", self._identity_name, replace=True)
        OmegaConf.register_new_resolver("result", self._result_name, replace=True)

    def __getitem__(self, key: str) -> dict[str, Any]:
        self._register()
        if key == "parameters":
            # Asked for by every hook and by the catalog; read and checked once.
            if self._parameters is None:
                self._parameters = self._read(key)
            return copy.deepcopy(self._parameters)
        return self._read(key)

    def _read(self, key: str) -> dict[str, Any]:
        if key in ("parameters", "catalog"):
            # First, because a mistake met while OmegaConf resolves would be wrapped in its own.
            _ = self.identity
        with _in_one_line():
            value: dict[str, Any] = super().__getitem__(key)
            if key != "parameters":
                return value
            replace_augment(value, self.runtime_params or {})
            value = self._with_recipe(value, self.runtime_params or {})
            from hgnetv2_pipeline.project.params import complete_recipes, validate

            value = complete_recipes(value, self.runtime_params or {})

        identity = self.identity
        params = validate(value, environment=identity.environment)
        for name in _IDENTITY_KEYS[:-1]:
            if params[name] != getattr(identity, name):
                raise ParameterError(
                    f"parameters say {name}={params[name]!r} but paths are made with "
                    f"{getattr(identity, name)!r}: set {name} in "
                    f"conf/{identity.environment}/globals.yml or by --params, "
                    "not in a parameters file"
                )
        from hgnetv2_pipeline.project.run import Run

        shared = {name: params[name] for name in Run.model_fields if name != "identity"}
        return {**params, "this_run": {"identity": identity.model_dump(), **shared}}


def replace_augment(merged: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Whoever names an augmentation starts from its own values: those that the files give with
    ``augment`` are of another one, or changes of it.
    """
    for key, value in given.items():
        if not isinstance(value, Mapping) or not isinstance(merged.get(key), dict):
            continue
        if key == "augment" and "name" in value:
            merged[key] = dict(value)
        else:
            replace_augment(merged[key], value)


@contextmanager
def _in_one_line() -> Iterator[None]:
    """What OmegaConf says of a value that does not resolve, as our one line."""
    try:
        yield
    except (OmegaConfBaseException, ValueError) as error:
        if hasattr(error, "exit_code"):
            raise
        said = " ".join(str(error).split())
        raise ParameterError(f"the configuration cannot be resolved: {said}") from error


def check_yaml(text: bytes, path: str) -> None:
    """Refuse what is no plain YAML: syntax, tags of Python, keys twice, anchors without end.

    Reads events, of which nothing is built: a file of some hundred bytes can stand for gigabytes.
    """
    reader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_events(yaml.parse(text, Loader=reader), path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is no YAML: {' '.join(str(error).split())}") from error


@dataclass
class _Open:
    """A list or block whose end has not come yet."""

    anchor: str | None
    keys: set[str] | None
    values: int = 1
    parts: int = 0


def _check_events(events: Iterator[Any], path: str) -> None:
    read = _Read(path)
    for event in events:
        read.take(event)


class _Read:
    """What was read of a file: the lists and blocks still open, and what each anchor comes to."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._sizes: dict[str, int] = {}
        self._waiting = [_Open(None, None)]

    def take(self, event: Any) -> None:
        """The next event; ParameterError where it may not follow."""
        where = f"{self._path} line {event.start_mark.line + 1}"
        tag = getattr(event, "tag", None)
        if tag is not None and tag not in _PLAIN_TAGS:
            raise ParameterError(f"{where}: the tag {tag} is not taken; write a plain value")
        if isinstance(event, yaml.AliasEvent):
            self._count(self._size_of(event.anchor, where))
        elif isinstance(event, yaml.ScalarEvent):
            self._check_key(event.value, where)
            self._close(event.anchor, 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            block = isinstance(event, yaml.MappingStartEvent)
            self._waiting.append(_Open(event.anchor, set() if block else None))
            if len(self._waiting) > _DEEPEST:
                raise ParameterError(f"{where}: nested too deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = self._waiting.pop()
            self._close(closed.anchor, closed.values)

    def _size_of(self, anchor: str, where: str) -> int:
        if any(part.anchor == anchor for part in self._waiting):
            raise ParameterError(f"{where}: an anchor holds itself")
        if anchor not in self._sizes:
            raise ParameterError(f"{where}: there is no anchor {anchor}")
        return self._sizes[anchor]

    def _check_key(self, value: str, where: str) -> None:
        """Of a block every other value is a key."""
        keys, first = self._waiting[-1].keys, self._waiting[-1].parts % 2 == 0
        if keys is not None and first and value != "<<":
            if value in keys:
                raise ParameterError(f"{where}: the key {value} appears twice")
            keys.add(value)

    def _close(self, anchor: str | None, size: int) -> None:
        if anchor:
            self._sizes[anchor] = size
        self._count(size)

    def _count(self, size: int) -> None:
        self._waiting[-1].parts += 1
        self._waiting[-1].values += size
        if self._waiting[-1].values > _MOST_VALUES:
            raise ParameterError(
                f"{self._path} comes to more than {_MOST_VALUES:,} values once its anchors are "
                "written out"
            )
