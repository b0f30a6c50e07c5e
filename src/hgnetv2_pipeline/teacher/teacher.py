"""A teacher: frozen networks whose mean probability is the answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hgnetv2_pipeline.data.decode import DECODING, Decoding
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.errors import ParameterError, WeightsError
from hgnetv2_pipeline.input.loader import View, memory_format, normalised_view
from hgnetv2_pipeline.processor import keep_memory
from hgnetv2_pipeline.variants import Fit

BatchNorm = Literal["eval", "batch"]


@dataclass(frozen=True)
class Member:
    """One network of a teacher.

    Attributes:
        network: from what ``view`` gives to logits [N, C].
        view: from uint8 images [N, 3, H, W] to what the network takes: normalised its own way.
        preprocess: how its images come from files.
        spec: what ``weights.build_from`` was given.
        sha256: of its weight file; of its tensors where there is no file.
    """

    network: nn.Module
    view: View
    preprocess: Preprocess = Preprocess()
    spec: str = ""
    sha256: str = ""


class Teacher:
    """Frozen networks whose mean softmax is the answer.

    bn='eval' uses the stored statistics. bn='batch' normalises by the batch, as PaddleClas's frozen
    teacher does; its momentum is 0, so that the stored statistics never drift. Dropout is off
    either way.
    """

    def __init__(self, members: Sequence[Member], bn: BatchNorm = "eval") -> None:
        if not members:
            raise ParameterError(
                "no teacher is given; name at least one (train_teacher.members, .source or .probes)"
            )
        self.members, self.bn = list(members), bn
        for member in self.members:
            member.network.requires_grad_(False).eval()
            if bn == "batch":
                for module in member.network.modules():
                    if isinstance(module, _BatchNorm):
                        module.train()
                        module.momentum = 0.0

    @property
    def preprocesses(self) -> dict[str, Preprocess]:
        """The different preprocessings of the members, by fingerprint."""
        return {member.preprocess.fingerprint: member.preprocess for member in self.members}

    @property
    def identity(self) -> list[dict[str, str]]:
        """What the answers follow from: the weights and preprocessing of each member."""
        return [
            {"sha256": member.sha256, "preprocess": member.preprocess.fingerprint}
            for member in self.members
        ]

    def __call__(self, images: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Logits [N, C] whose softmax is the mean of the members' (one member: its own logits).

        ``images`` is uint8 [N, 3, H, W]: one view for all members, or one for each preprocessing
        by its fingerprint.
        """
        with torch.inference_mode():
            mean = mean_logits(self.answers(images))
        # Autograd may not save a tensor made in inference mode; a copy of it is an ordinary one.
        return mean.clone()

    def folded(self) -> Teacher:
        """The same with batch norms folded into convolutions: faster, and equal up to rounding.

        With bn='batch' there is nothing to fold.
        """
        from hgnetv2_pipeline.models.fold import reparameterize

        if self.bn == "batch":
            return self
        return Teacher([replace(one, network=reparameterize(one.network)) for one in self.members])

    def seeing(self, fit: Fit | None) -> Teacher:
        """The same with images fitted so by members that would cut a square out of them, as those
        do that were not made for these images; None: as their weights say.
        """
        return Teacher(
            [
                replace(one, preprocess=replace(one.preprocess, fit=fit))
                if fit and one.preprocess.fit == "crop" and isinstance(one.preprocess.crop, int)
                else one
                for one in self.members
            ],
            self.bn,
        )

    def answers(self, images: Tensor | Mapping[str, Tensor]) -> list[Tensor]:
        """The logits [N, C] of each member."""
        return [self.answer(member, images) for member in self.members]

    def answer(self, member: Member, images: Tensor | Mapping[str, Tensor]) -> Tensor:
        """The logits [N, C] of one member."""
        seen = images if isinstance(images, Tensor) else images[member.preprocess.fingerprint]
        logits: Tensor = member.network(member.view(seen))
        return logits


def mean_logits(answers: Sequence[Tensor]) -> Tensor:
    """Logits [N, C] whose softmax is the mean softmax of ``answers``, each [N, C].

    Of one network: its own logits, unchanged.
    """
    return answers[0] if len(answers) == 1 else mean_log_probability(answers)


def mean_log_probability(answers: Sequence[Tensor]) -> Tensor:
    """The logarithm [N, C] of the mean softmax of ``answers``, each logits [N, C]."""
    each = torch.stack([one.log_softmax(dim=1) for one in answers])
    return each.logsumexp(dim=0) - math.log(len(answers))


def load_teacher(
    specs: Sequence[str],
    *,
    classes: Sequence[str] | int,
    root: Path,
    device: torch.device,
    preprocess: Preprocess | None = None,
    decoding: Decoding = DECODING,
    bn: BatchNorm = "eval",
    channels_last: bool = True,
) -> Teacher:
    """The teacher of ``specs``, each as ``weights.build_from`` takes it, on ``device``.

    Args:
        specs: its members.
        classes: names in the order of the logits, which members that know theirs must agree with;
            or how many there are.
        root: what weight files are relative to.
        preprocess: of members whose weights do not say how their images are prepared.
        decoding: transparency and depth of the images that all members will see; whatever their
            own weights say of them.

    Raises:
        WeightsError: weights that are missing, or of other classes.
        ParameterError: a member does not say how its images are prepared, nor does ``preprocess``.
    """
    from hgnetv2_pipeline.weights.build import build_from, weights_hash
    from hgnetv2_pipeline.weights.imagenet import agree

    names = None if isinstance(classes, int) else list(classes)
    number = classes if isinstance(classes, int) else len(classes)
    layout = memory_format(channels_last)
    if device.type == "cpu":
        keep_memory()  # a pass of frozen networks takes up to half as long
    members = []
    for spec in specs:
        network, info = build_from(spec, num_classes=number, root=root)
        if names is not None and not agree(info["classes"], names):
            raise WeightsError(
                f"teacher {spec!r} knows other classes ({first_classes(info['classes'])}) than the "
                f"data ({first_classes(names)})"
            )
        digest = info["sha256"] or weights_hash(network)
        network.to(device, memory_format=layout)
        how = _prepared_by(spec, info, preprocess).reading(decoding)
        view = normalised_view(how, channels_last=channels_last)
        members.append(Member(network, view, how, spec, digest))
    return Teacher(members, bn)


def first_classes(classes: Sequence[str]) -> str:
    """The first names of ``classes``, for a message."""
    return ", ".join(classes[:3]) + (f" ... {len(classes)} in all" if len(classes) > 3 else "")


def _prepared_by(spec: str, info: Mapping[str, Any], preprocess: Preprocess | None) -> Preprocess:
    if info["preprocess"]:
        return Preprocess.from_dict(info["preprocess"])
    if preprocess is None:
        raise ParameterError(
            f"the weights of {spec} do not say how their images are prepared; the "
            "pipeline import_weights writes a file that does"
        )
    return preprocess
