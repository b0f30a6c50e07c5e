"""What every node of a command needs to know: who runs, on which device, what is made again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.results import Result, ResultSpec, Reuse
from hgnetv2_pipeline.training.config import Device, DistributedConfig

Resume = Literal["exact", "force"]


class Run(BaseModel):
    """A run as its nodes see it: the parameter ``this_run``, which the config loader adds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: Identity
    device: Device
    distributed: DistributedConfig
    redo: list[str]
    resume: Resume

    def folder(self, name: str) -> Path:
        """Absolute path of the folder ``name`` of ``identity.FOLDERS``."""
        return self.identity.folder(name)

    @property
    def reuse(self) -> Reuse:
        """Finds or makes the results of this run."""
        return Reuse(self.identity.project, self.redo)

    def produce(self, spec: ResultSpec, make: Callable[[Path], object]) -> Result:
        """The result that ``spec`` says, made by ``make(folder)`` unless it is finished already."""
        return self.reuse.produce(spec, make)
