"""Where a network lies inside a file: below keys of dicts, and below prefixes of names.

A training program keeps a network beside its optimiser, its arguments and perhaps a second,
averaged copy, and wraps it in modules of its own. Here is decided which one is read; what is not
read is named. ``Wanted`` is what a user may say about it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from hgnetv2_pipeline.errors import ParameterError, WeightsError, unknown_name
from hgnetv2_pipeline.variants import PoolPadding
from hgnetv2_pipeline.weights.styles import FIRST_TENSORS, is_bookkeeping

Part = Literal["student", "teacher"]

# Where programs keep the weights of a network, the likelier first. What else a file holds is left
# aside. Averaged weights (``_AVERAGED``) come before all others, as in the programs themselves.
LAYOUTS: tuple[tuple[str, ...], ...] = (
    ("ema", "module"),  # D-FINE, RT-DETR
    ("state_dict_ema",),  # timm
    ("model_ema",),  # torchvision's references
    ("ema_state_dict",),
    ("params_ema",),  # BasicSR
    ("ema_model",),
    ("ema",),
    ("state_dict",),  # timm, mmengine, Lightning, PyTorch's ImageNet example
    ("model",),  # D-FINE, RT-DETR, torchvision's references
    ("model_state_dict",),  # PyTorch's tutorials
    ("model_state",),
    ("net",),
    ("network",),
    ("weights",),
    ("params",),  # BasicSR
    ("module",),  # DeepSpeed
)
_MAX_LAYOUTS = 4  # dicts one inside another; a hostile file may hold itself
_AVERAGED = re.compile(r"(?:^|[._])(?:ema|averaged|swa)(?=[._]|$)", re.IGNORECASE)
_ROLE = re.compile(
    r"(?:^|[._])(student|teacher)\.", re.IGNORECASE
)  # PaddleClas's DistillationModel
_INNER = re.compile(r"(?:^|[._])backbone\.")
_WRAPPERS = re.compile(r"(?:(?:module|_orig_mod|student|teacher)\.)*", re.IGNORECASE)
_SHOWN = 8  # places that a message lists


@dataclass(frozen=True)
class Wanted:
    """Which network of a file is wanted, and how the border of its stem is to be padded.

    ``part``: of a distillation checkpoint the student or the teacher. ``key``: the dotted keys of
    the dicts above its tensors, ``ema.module``. ``prefix``: what comes before the names of its
    tensors, ``model.``. ``pool_padding``: as ``create_model`` takes it; None: as the file says.
    """

    part: Part = "student"
    key: str | None = None
    prefix: str | None = None
    pool_padding: PoolPadding | None = None

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("part", self.part, get_args(Part)),
            ("pool_padding", self.pool_padding, (*get_args(PoolPadding), None)),
        ):
            if value not in allowed:
                raise unknown_name(
                    name, value, filter(None, allowed), f"FILE@{name}=..., load_weights({name}=...)"
                )

    def below(self, key: str) -> Wanted:
        """What is wanted of the names of the tensors in the dict below ``key``."""
        if self.key is not None and not key:  # Paddle's dicts have become dotted names
            return replace(self, key=None, prefix=".".join(filter(None, (self.key, self.prefix))))
        return replace(self, part="student") if _role(f"{key}.") == self.part else self


_SAID = re.compile(r"@(part|key|prefix|pool_padding)=([^@]*)$")


def split_spec(spec: str) -> tuple[str, Wanted]:
    """A file's name and what is said behind it, ``best.pth.tar@key=model@pool_padding=zero``.

    >>> split_spec("best.ckpt@prefix=model.")
    ('best.ckpt', Wanted(part='student', key=None, prefix='model.', pool_padding=None))
    """
    said: dict[str, Any] = {}
    name = spec
    while found := _SAID.search(name):
        key, value = found.groups()
        if key in said or not value:
            raise ParameterError(f"{spec}: {key}= {'twice' if key in said else 'without a value'}")
        said[key] = value
        name = name[: found.start()]
    return name, Wanted(**said)


def said_of(spec: str) -> str:
    """What is said behind the file's name of ``spec``: ``@key=model``, or nothing."""
    return spec[len(split_spec(spec)[0]) :]


def as_typed(spec: str) -> str:
    """``spec`` with its path made absolute, where it leads somewhere from the current folder.

    A path as typed is relative to where it was typed, any other name to the project.
    """
    name = Path(split_spec(spec)[0])
    return f"{name.absolute()}{said_of(spec)}" if name.exists() else spec


# --- keys of dicts --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unwrapped:
    """What lies below ``key`` of a checkpoint: the ``content``, and the names of the ``rest``.

    ``places``: all keys below which networks of ours lie, dotted; ``averaged`` where that was the
    reason to take this one.
    """

    content: Any
    key: str
    rest: tuple[str, ...]
    places: tuple[str, ...]
    averaged: bool


def unwrap_checkpoint(
    checkpoint: Any, wanted: Wanted, is_tensor: Callable[[Any], bool], source: object
) -> Unwrapped:
    """The dict with the network in a training program's checkpoint.

    ``wanted.key`` decides where it is given. Otherwise averaged weights come first, then the names
    of ``LAYOUTS``; a single network is taken whatever its key. Raises ``WeightsError`` with the
    keys to choose from.
    """
    found = dict(_networks_below(checkpoint))
    places = tuple(found)
    if wanted.key is not None:
        path = _followed(checkpoint, wanted.key, places, source)
        averaged = False
    elif found:
        path, averaged = _best_place(found, wanted.part, source)
    else:
        path, averaged = _layout(checkpoint, is_tensor), False
    rest: list[str] = []
    above = ""
    for part in path:
        rest.extend(f"{above}{key}" for key in checkpoint if key != part)
        checkpoint = checkpoint[part]
        above += f"{part}."
    return Unwrapped(checkpoint, ".".join(map(str, path)), tuple(rest), places, averaged)


def _networks_below(
    value: Any, path: tuple[Any, ...] = ()
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """(dotted keys, keys) of every dict that directly holds a network of ours."""
    if not isinstance(value, Mapping) or len(path) > _MAX_LAYOUTS:
        return
    if network_prefixes(key for key in value if isinstance(key, str)):
        yield ".".join(map(str, path)), path
    for key, inner in value.items():
        if isinstance(inner, Mapping) and isinstance(key, str):
            yield from _networks_below(inner, (*path, key))


def _followed(
    checkpoint: Any, key: str, places: tuple[str, ...], source: object
) -> tuple[str, ...]:
    """The keys that ``key`` names; a key of the file may itself have dots."""
    path: list[str] = []
    left = key
    while left:
        parts = left.split(".")
        heads = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
        head = next((h for h in heads if isinstance(checkpoint, Mapping) and h in checkpoint), None)
        if head is None or not isinstance(checkpoint[head], Mapping):
            raise WeightsError(f"{source} has no dict below the key {key!r}{_offered(places)}")
        checkpoint = checkpoint[head]
        path.append(head)
        left = left[len(head) + 1 :]
    return tuple(path)


def _offered(places: tuple[str, ...]) -> str:
    named = [place for place in places if place]
    if not named:
        return "; no network of ours is below any of its keys"
    more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
    return f"; networks are below {', '.join(named[:_SHOWN])}{more}"


def _best_place(
    found: Mapping[str, tuple[Any, ...]], part: Part, source: object
) -> tuple[tuple[Any, ...], bool]:
    """The keys of the network to read, and whether it was chosen for being averaged."""
    fitting = [place for place in found if (_role(f"{place}.") or "student") == part]
    if not fitting and any(_role(f"{place}.") for place in found):
        raise WeightsError(f"{source} is a distillation checkpoint without a {part}")
    fitting = fitting or list(found)  # whether it has such a part, its names will say
    known = {".".join(layout): number for number, layout in enumerate(LAYOUTS)}

    def rank(place: str) -> tuple[bool, int]:
        return not _AVERAGED.search(place), known.get(place, len(known))

    best = min(map(rank, fitting))
    first = [place for place in fitting if rank(place) == best]
    if len(first) > 1:
        raise WeightsError(
            f"{source} holds {len(first)} networks{_offered(tuple(first))}: say which one, "
            f"key={first[0]} (FILE@key=..., load_weights(key=...), import_weights.key)"
        )
    return found[first[0]], len(fitting) > 1 and not best[0]


def _layout(checkpoint: Any, is_tensor: Callable[[Any], bool]) -> tuple[str, ...]:
    """Where a network that is none of ours is, by the names of ``LAYOUTS`` alone."""
    path: tuple[str, ...] = ()
    for _ in range(_MAX_LAYOUTS):
        layout = next((one for one in LAYOUTS if _leads_on(checkpoint, one, is_tensor)), ())
        for part in layout:
            checkpoint = checkpoint[part]
        path += layout
    return path


def _leads_on(checkpoint: Any, path: tuple[str, ...], is_tensor: Callable[[Any], bool]) -> bool:
    """Whether ``path`` leads to a dict that holds tensors, perhaps further down."""
    for part in path:
        checkpoint = checkpoint.get(part) if isinstance(checkpoint, Mapping) else None
    return isinstance(checkpoint, Mapping) and _holds_tensors(checkpoint, is_tensor, 0)


def _holds_tensors(value: Mapping[Any, Any], is_tensor: Callable[[Any], bool], depth: int) -> bool:
    return any(
        is_tensor(item)
        or (
            isinstance(item, Mapping)
            and depth < _MAX_LAYOUTS
            and _holds_tensors(item, is_tensor, depth + 1)
        )
        for item in value.values()
    )


# --- prefixes of names ----------------------------------------------------------------------------


def network_prefixes(keys: Iterable[str]) -> list[str]:
    """What comes before the names of each network of ours among ``keys``: '', 'backbone.', ..."""
    found: dict[str, None] = {}
    for key in keys:
        before = [key.removesuffix(f) for f in FIRST_TENSORS if key == f or key.endswith(f".{f}")]
        if before:
            found[min(before, key=len)] = None
    return list(found)


@dataclass(frozen=True)
class Chosen:
    """The tensors of one network: ``names`` of key -> name without prefix, and the ``rest``.

    ``prefix``: what was taken off; ``averaged`` where that was the reason to take this one.
    """

    names: dict[str, str]
    rest: tuple[str, ...]
    prefix: str
    averaged: bool = False


def choose_names(keys: Iterable[str], wanted: Wanted, source: object) -> Chosen:
    """The network asked for, by a file's ``keys``.

    ``module.`` and the like are removed; what lies outside of such a wrapper, which is round the
    whole, stays, to be refused as unknown. What lies beside an attribute (``model.``,
    ``backbone.``) belongs to other modules, and is the rest. Of a distillation checkpoint ``part``
    says which network is wanted; of a detector the backbone is; of two networks the averaged one.
    ``prefix`` decides where it is given. Raises ``WeightsError`` where the part is not there or the
    choice is not clear.
    """
    keys = list(keys)
    if wanted.prefix is not None:
        return _below_prefix(keys, wanted.prefix, source)
    part = wanted.part
    roles = {role for key in keys if (role := _role(key))}
    if part == "teacher" and not roles:
        raise WeightsError(f"{source} holds one network, so it has no teacher beside a student")
    prefixes = network_prefixes(keys)
    if roles:
        prefixes = _of_role(prefixes, part, roles, source)
    prefix = _only(prefixes, source)
    inside = {
        key: key.removeprefix(prefix)
        for key in keys
        if key.startswith(prefix) and (_role(key) or part) == part
    }
    outside = tuple(key for key in keys if key not in inside)
    if not roles and _WRAPPERS.fullmatch(prefix):
        strays = [key for key in outside if not is_bookkeeping(key)]
        rest = tuple(key for key in outside if key not in strays)
        return Chosen(inside | {key: key for key in strays}, rest, prefix)
    averaged = len(prefixes) > 1 and bool(_AVERAGED.search(prefix))
    return Chosen(inside, outside, prefix, averaged)


def _below_prefix(keys: list[str], prefix: str, source: object) -> Chosen:
    """The keys below ``prefix``, and of them those of the one network there."""
    start = f"{prefix.removesuffix('.')}." if prefix else ""
    below = [key.removeprefix(start) for key in keys if key.startswith(start)]
    if not below:
        known = [before for before in network_prefixes(keys) if before]
        offered = f"; networks are below {', '.join(known[:_SHOWN])}" if known else ""
        raise WeightsError(f"{source} has no tensor below the prefix {start!r}{offered}")
    start += _only(network_prefixes(below), source)
    inside = {key: key.removeprefix(start) for key in keys if key.startswith(start)}
    return Chosen(inside, tuple(key for key in keys if key not in inside), start)


def _of_role(prefixes: list[str], part: Part, roles: set[str], source: object) -> list[str]:
    """The prefixes of networks that are ``part`` in a distillation checkpoint."""
    # Beside a teacher, a network without such a name is the student.
    fitting = [prefix for prefix in prefixes if (_role(prefix) or "student") == part]
    if not fitting and part not in roles:
        raise WeightsError(f"{source} is a distillation checkpoint without a {part}")
    if not fitting:
        raise WeightsError(f"the {part} in {source} is no network of ours")
    return fitting


def _only(prefixes: list[str], source: object) -> str:
    """The one prefix: that of the backbone where a detector has others, that of the averaged
    weights where others are beside them; '' where there is none."""
    for mark in (_INNER, _AVERAGED):
        if len(prefixes) > 1:
            prefixes = [prefix for prefix in prefixes if mark.search(prefix)] or prefixes
    if len(prefixes) > 1:
        named = ", ".join(repr(prefix) for prefix in prefixes[:5])
        raise WeightsError(
            f"{source} holds {len(prefixes)} networks, below {named}: say which one, "
            f"prefix={prefixes[0]} (FILE@prefix=..., load_weights(prefix=...), "
            "import_weights.prefix)"
        )
    return prefixes[0] if prefixes else ""


def _role(key: str) -> str:
    found = _ROLE.search(key)
    return found.group(1).lower() if found else ""
