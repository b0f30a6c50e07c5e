"""Objects that training programs save beside a network, by the names of their classes.

None of them is imported or made: where a checkpoint has one, an empty dict (an empty list, where
values are appended) stands in for it, and what the file says it holds is dropped. Whatever is not
here is refused by its name, as no weights file needs it.
"""

from __future__ import annotations

from hgnetv2_pipeline.weights.pickle_machine import Symbol

_OBJECTS = {
    "argparse": ("Namespace",),  # timm, DINO, MAE and most scripts: the command line
    "types": ("SimpleNamespace",),
    "pathlib": ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"),
    "pathlib._local": ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"),
    "datetime": ("datetime", "date", "time", "timedelta", "timezone"),
    "uuid": ("UUID", "SafeUUID"),
    "collections": ("defaultdict",),
    "torch.torch_version": ("TorchVersion",),
    "easydict": ("EasyDict",),
    "addict.addict": ("Dict",),
    "yacs.config": ("CfgNode",),
    "fvcore.common.config": ("CfgNode",),
    "detectron2.config.config": ("CfgNode",),
    "mmengine.config.config": ("Config", "ConfigDict"),
    "mmengine.logging.history_buffer": ("HistoryBuffer",),
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.listconfig": ("ListConfig",),
    "omegaconf.base": ("ContainerMetadata", "Metadata", "SCMode"),
    "omegaconf.nodes": ("AnyNode", "BooleanNode", "FloatNode", "IntegerNode", "StringNode"),
    # Lightning, by the name of each of its packages: the hyperparameters.
    "pytorch_lightning.utilities.parsing": ("AttributeDict",),
    "lightning.pytorch.utilities.parsing": ("AttributeDict",),
    "lightning_fabric.utilities.data": ("AttributeDict",),
    "lightning.fabric.utilities.data": ("AttributeDict",),
}
_VALUES = {  # classes that are named and never called
    "typing": ("Any",),
    "builtins": ("dict", "list", "int", "float", "str", "bool", "bytes", "object"),
    "__builtin__": ("dict", "list", "int", "long", "float", "str", "unicode", "bool", "object"),
    "numpy": (
        "bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
        "float16", "float32", "float64", "str_",
    ),
}  # fmt: skip

STAND_INS: dict[tuple[str, str], Symbol] = {
    (module, name): Symbol(role, f"{module}.{name}")
    for role, table in (("object", _OBJECTS), ("value", _VALUES))
    for module, names in table.items()
    for name in names
}
STAND_INS |= {("collections", "deque"): Symbol("list", "collections.deque")}
STAND_INS |= {
    (module, "frozenset"): Symbol("first", "frozenset") for module in ("builtins", "__builtin__")
}
