"""Configuration: YAML holds the values, ``RunParams`` the types and limits, one table the paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kedro.config import OmegaConfigLoader
from omegaconf import OmegaConf

from hgnetv2_pipeline.errors import ParameterError, unknown_name
from hgnetv2_pipeline.pipelines.identity import Identity, resolve, result_name

PUBLISHED = "published"
_IDENTITY_KEYS = ("variant", "dataset", "seed", "teacher", "download", "run", "model")


class ProjectConfigLoader(OmegaConfigLoader):
    """OmegaConfigLoader that knows who the run is and refuses what it cannot mean.

    ``${folder:NAME}`` and ``${identity:NAME}`` resolve in catalog and parameters alike, from
    ``globals.yml`` overridden by ``--params``; the parameters come out validated, with the key
    ``identity`` added. Kedro itself accepts ``varient=b4`` and ``variant=b7`` without a word.
    """

    def __init__(self, conf_source: str | Path, *args: Any, **kwargs: Any) -> None:
        super().__init__(str(conf_source), *args, **kwargs)
        self._refuse_unknown_environment()

    def _refuse_unknown_environment(self) -> None:
        """Kedro says of a mistyped ``--env`` that a path is no valid directory."""
        folders = {path.name for path in Path(self.conf_source).iterdir() if path.is_dir()}
        known = sorted(folders - {self.base_env, "own", "local"})
        if self.env is not None and self.env not in known:
            raise unknown_name(
                "environment",
                self.env,
                known,
                "--env ...; for your own images: hgnetv2 init NAME --labelled DIR --pool DIR",
            )

    @property
    def identity(self) -> Identity:
        """The names and paths of this run."""
        known = {**self["globals"], **(self.runtime_params or {})}
        return resolve(
            {key: known.get(key) for key in _IDENTITY_KEYS},
            project=Path(self.conf_source).resolve().parent,
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

    def _with_recipe(self, params: dict[str, Any]) -> dict[str, Any]:
        """Lay the file of ``recipe`` over what base and environment say, below ``--params``."""
        recipe = params.get("recipe", PUBLISHED)
        if recipe == PUBLISHED:
            return params
        base = Path(self.conf_source) / self.base_env
        found = {path.stem.removeprefix("recipe_"): path for path in base.glob("recipe_*.yml")}
        if recipe not in found:
            raise unknown_name("recipe", recipe, [PUBLISHED, *sorted(found)], "--params recipe=...")
        layers = (params, OmegaConf.load(found[recipe]), self.runtime_params or {})
        merged = OmegaConf.merge(*map(OmegaConf.create, layers))
        return OmegaConf.to_container(merged, resolve=True)  # type: ignore[return-value]

    def _register(self) -> None:
        # Several loaders can live in one process (Kedro-Viz, tests); resolvers are global there.
        OmegaConf.register_new_resolver("folder", self._folder, replace=True)
        OmegaConf.register_new_resolver("identity", self._identity_name, replace=True)
        OmegaConf.register_new_resolver("result", self._result_name, replace=True)

    def __getitem__(self, key: str) -> dict[str, Any]:
        self._register()
        if key in ("parameters", "catalog"):
            # First, because a mistake met while OmegaConf resolves would be wrapped in its own.
            _ = self.identity
        value: dict[str, Any] = super().__getitem__(key)
        if key != "parameters":
            return value
        value = self._with_recipe(value)
        from hgnetv2_pipeline.pipelines.params import validate

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
        return {**params, "identity": identity.model_dump()}
