"""Which engine runs a model: the best one that can, saying why not the better ones."""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.deployment.card import precision_file, precision_of
from hgnetv2_pipeline.deployment.choices import (
    CPU_ENGINES,
    ENDINGS,
    ENGINES,
    FILES,
    GPU_ENGINES,
    MODULES,
    NAMED_ONLY,
    NEEDS,
    PRECISIONS,
)
from hgnetv2_pipeline.deployment.engines.base import (
    Engine,
    EngineState,
    EngineUnavailable,
    NoEmbeddings,
    Wish,
    need,
)
from hgnetv2_pipeline.deployment.self_test import self_test_images
from hgnetv2_pipeline.errors import ParameterError, WeightsError, unknown_name
from hgnetv2_pipeline.processor import check_threads, restricted_cpus
from hgnetv2_pipeline.weights.onnx_file import onnx_props

if TYPE_CHECKING:
    from hgnetv2_pipeline.data.preprocess import Preprocess

_log = logging.getLogger(__name__)

# What noise of the clock may make of two that are level.
_SLOWER = 1.1
DEVICES = (None, "cpu", "cuda")
_PLAN_SUFFIXES = (".engine", ".plan")


def load_engine(
    path: str | Path,
    engine: str = "auto",
    *,
    threads: int = 0,
    precision: str | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    root: Path | None = None,
    preprocess: Preprocess | None = None,
    classes: Sequence[str] | None = None,
    embeddings: bool = False,
) -> Engine:
    """Load a model for inference.

    ``path``: an ``.onnx`` file, an export folder (``model.onnx`` inside, a TensorRT plan or files
    for devices beside it), a plan (``.engine``, ``.plan``), a file for devices (``.pte``,
    ``.ncnn.bin``), or anything that ``models.build_from`` takes: a weight file, a run folder, a zoo
    name, ``timm:<name>`` (relative to ``root``). ``engine``: one of
    ``ENGINES``, or ``auto``: the first of them that can run this model here, which is logged
    together with the reasons of those before it (never one of ``NAMED_ONLY``, nor a precision that
    is slower here than fp32). ``threads``: CPU
    threads, 0 = the library's choice. ``precision``: None takes that of the file named, fp32 of a
    folder and of weights; ``fp16``, ``int8`` and TensorRT's ``bf16`` are
    ``model.<precision>.onnx`` beside ``model.onnx``, OpenVINO's ``bf16`` and a GPU's ``tf32``
    compute so with the fp32 file, PyTorch with the weights. Without a plan TensorRT builds one,
    into ``plans/`` beside the file. ``batch_size``: how many images a call will bring as a rule;
    OpenVINO is faster when it knows, the others take any number alike; a file for one batch size
    answers any number of images in batches of that. ``device``: ``cpu`` or
    ``cuda`` leaves out the engines of the other; None takes a GPU where there is one.
    ``preprocess`` and ``classes`` replace, or stand in for, what the file says. ``embeddings``
    leaves out what cannot give any beside the logits.

    An engine that does not give the answers that an exported file carries is refused.

    Raises ParameterError (``EngineUnavailable`` when a named engine cannot run here, or computes
    wrongly),
    WeightsError for a missing, damaged or foreign file.
    """
    if engine != "auto" and engine not in ENGINES:
        raise unknown_name("engine", engine, ("auto", *ENGINES), "engine=...")
    if precision is not None and precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS, "precision=...")
    if device not in DEVICES:
        raise unknown_name("device", device, ("cpu", "cuda"), "device=...")
    check_threads(threads)
    if batch_size is not None and batch_size < 1:
        raise ParameterError(f"batch_size={batch_size}; it must be at least 1")
    onnx, plan = _files(str(path))
    if engine == "auto" and plan is not None:
        engine = next((name for name, end in ENDINGS.items() if plan.name.endswith(end)), engine)
    wish = Wish(
        spec=str(path),
        onnx=onnx,
        plan=plan,
        own="fp32" if onnx is None else precision_of(onnx_props(onnx), onnx),
        auto=engine == "auto",
        # The library's choice is by the cores of the machine, whatever share of them is ours.
        threads=threads or restricted_cpus() or 0,
        precision=precision,
        batch_size=batch_size,
        device=device,
        root=root,
        preprocess=preprocess,
        classes=classes,
        embeddings=embeddings,
    )
    if engine != "auto":
        loaded = _open(engine, wish)
        _log.info("engine %s on %s", loaded.name, loaded.device)
        return loaded
    refused: list[EngineUnavailable] = []
    for name in (name for name in ENGINES if name not in NAMED_ONLY):
        try:
            loaded = _open(name, wish)
        except EngineUnavailable as error:
            refused.append(error)
            continue
        _log.info("engine %s on %s", loaded.name, loaded.device)
        for reason in refused:
            _log.info("not %s", reason)
        return loaded
    for reason in refused:
        if isinstance(reason, NoEmbeddings):
            raise reason  # what the file lacks no engine can give
    raise EngineUnavailable(f"no engine can run {path}: {'; '.join(map(str, refused))}")


def _open(name: str, wish: Wish) -> Engine:
    home = "cuda" if name in GPU_ENGINES else "cpu" if name in CPU_ENGINES else wish.device
    if wish.device not in (None, home):
        raise EngineUnavailable(f"{name}: runs on {home}, and device={wish.device} was asked for")
    try:
        wish = _with_file(name, wish)  # what no file is there for needs no package
        engine = _import_engine(name)(name, wish)
    except ImportError as error:
        # Installed, but a library of the system that it needs is not.
        reason = " ".join(str(error).split())
        raise EngineUnavailable(f"{name}: cannot be imported ({reason})") from error
    try:
        if wish.embeddings:
            engine.require_embeddings()
        engine.check_answers()
        if wish.auto and engine.place == "cpu":
            _refuse_slower_than_fp32(engine, wish)
    except BaseException:
        engine.close()
        raise
    return engine


def find_engines() -> list[EngineState]:
    """What every engine finds on this machine; their libraries are imported for it."""
    found = []
    for name in ENGINES:
        try:
            found.append(_engine_module(name).find_engine(name))
        except (EngineUnavailable, ImportError, OSError) as error:
            reason = " ".join(str(error).split())
            words = reason if reason.startswith(f"{name}: ") else f"{name}: {reason}"
            found.append(EngineState(name, missing=words))
    return found


def _import_engine(name: str) -> Callable[[str, Wish], Engine]:
    opener: Callable[[str, Wish], Engine] = _engine_module(name).open_engine
    return opener


def _engine_module(name: str) -> Any:
    """The module that runs ``name``, once its packages are known to be there."""
    for package in NEEDS[name]:
        need(package, name)
    return importlib.import_module(f"hgnetv2_pipeline.deployment.engines.{MODULES[name]}")


def _refuse_slower_than_fp32(engine: Engine, wish: Wish) -> None:
    """Raise EngineUnavailable where the fp32 file beside an engine's is answered faster.

    A lower precision is asked for to be faster, and on a processor without the instructions it is
    not. Both answer one image in turn, for as long as a second; the best of each counts.
    """
    if engine.precision == "fp32" or wish.onnx is None:
        return
    exact = wish.onnx.with_name(precision_file("fp32"))
    if not exact.is_file():
        return
    from hgnetv2_pipeline.deployment.engines.with_ort import OrtEngine

    plain = OrtEngine(exact, threads=wish.threads, preprocess=wish.preprocess, classes=wish.classes)
    image = engine.preprocess.normalize(self_test_images(1, engine.preprocess.crop))
    taken: dict[Engine, list[float]] = {engine: [], plain: []}
    until = time.monotonic() + 1
    while len(taken[plain]) < 3 or (len(taken[plain]) < 20 and time.monotonic() < until):
        for one, times in taken.items():
            began = time.process_time()
            one.logits(image)
            times.append(time.process_time() - began)
    ours, theirs = (1e3 * min(times) for times in taken.values())
    if ours > _SLOWER * theirs:
        raise EngineUnavailable(
            f"{engine.name}: {engine.precision} is slower than fp32 on this processor "
            f"({ours:.1f} and {theirs:.1f} ms per image); take precision fp32, or ask for "
            f"engine {engine.name}"
        )


def model_file(onnx: Path, engine: str, precision: str) -> Path:
    """The file in the folder of ``onnx``, the fp32 one, that ``engine`` reads for ``precision``.

    ``onnx`` itself where that is not there, or the engine can run none.
    """
    needed = FILES.get(engine, {}).get(precision) or "fp32"
    beside = onnx.with_name(precision_file(needed, ENDINGS.get(engine, ".onnx")))
    return beside if beside.is_file() else onnx


def _files(spec: str) -> tuple[Path | None, Path | None]:
    """(ONNX file, TensorRT plan) that ``spec`` stands for; both None for weights and names."""
    path = Path(spec)
    suffix = path.suffix.lower()
    if suffix in (".onnx", *_PLAN_SUFFIXES) or path.name.endswith(tuple(ENDINGS.values())):
        if not path.is_file():
            raise WeightsError(f"no such model file: {path}")
        return (path, None) if suffix == ".onnx" else (None, path)
    if (path / "model.onnx").is_file():
        plans = [path / f"model{suffix}" for suffix in _PLAN_SUFFIXES]
        return path / "model.onnx", next((plan for plan in plans if plan.is_file()), None)
    return None, None


def _with_file(engine: str, wish: Wish) -> Wish:
    """The wish with its precision settled and, for that precision, the right file."""
    if engine in ENDINGS:
        return _with_device_file(engine, wish)
    own = "fp32" if wish.onnx is None else wish.own
    if wish.precision is None and wish.onnx is None:
        return wish  # a plan brings its own, weights are fp32
    precision = wish.precision or own
    needed = FILES[engine].get(precision)
    if needed is None:
        raise EngineUnavailable(f"{engine}: no {precision} on this engine")
    if wish.onnx is None:
        return replace(wish, precision=precision)
    # A plan in the folder is the fp32 file's.
    plan = wish.plan if precision == "fp32" else None
    if needed in ("", own):
        return replace(wish, precision=precision, plan=plan)
    beside = wish.onnx.with_name(precision_file(needed))
    if not beside.is_file():
        raise EngineUnavailable(
            f"{engine}: {precision} needs {beside.name} beside {wish.onnx.name}, a {own} file; "
            f"export it (kedro run --pipeline export --params {_precisions(needed)})"
        )
    return replace(wish, precision=precision, onnx=beside, plan=plan)


def _precisions(wanted: str) -> str:
    """The parameter by which ``wanted`` is exported beside fp32."""
    return "export.precisions=" + "+".join(dict.fromkeys(("fp32", wanted)))


def _with_device_file(engine: str, wish: Wish) -> Wish:
    """The wish with the file of ``engine`` in place of a plan: the one named, or that beside it."""
    ending = ENDINGS[engine]
    given = wish.plan if wish.onnx is None else wish.onnx
    if given is None or (wish.onnx is None and not given.name.endswith(ending)):
        raise EngineUnavailable(f"{engine}: runs {ending} files, and {wish.spec} is none")
    precision = wish.precision or (None if wish.onnx is None else wish.own)
    if precision is None:
        return wish
    if precision not in FILES[engine]:
        raise EngineUnavailable(f"{engine}: no {precision} on this engine")
    beside = given.with_name(precision_file(precision, ending))
    if not beside.is_file():
        raise EngineUnavailable(
            f"{engine}: {precision} needs {beside.name} beside {given.name}; export it (kedro run "
            f"--pipeline export --params export.target={engine},{_precisions(precision)})"
        )
    return replace(wish, precision=precision, plan=beside)
