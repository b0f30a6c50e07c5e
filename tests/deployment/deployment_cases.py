"""What the room's tests share: class names, a size, and networks with weights by formula."""

from __future__ import annotations

import torch

from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.models.hgnetv2 import Backbone, LearnableAffine
from hgnetv2_pipeline.weights.formula import formula_tensor

CLASSES = ("aal", "Bär, brown bear", "cat's eye", "d", "é", "f", "g")
SIDE = 64


def formula_model(variant: str, **arguments: object) -> Backbone:
    """Weights by formula; every sixth LAB scale negative and one zero, as training may leave."""
    model = create_model(variant, len(CLASSES), **arguments)
    state = {}
    for key, value in model.state_dict().items():
        paddle = key.replace("running_mean", "_mean").replace("running_var", "_variance")
        shape = tuple(value.shape)
        if key.endswith("num_batches_tracked"):
            state[key] = value
        elif key == "fc.weight":
            state[key] = torch.from_numpy(formula_tensor(paddle, shape[::-1])).T
        else:
            state[key] = torch.from_numpy(formula_tensor(paddle, shape))
    model.load_state_dict(state)
    labs = [module for module in model.modules() if isinstance(module, LearnableAffine)]
    with torch.no_grad():
        for lab in labs[::6]:  # the stem's first is among them: its border meets the max-pool
            lab.scale.neg_()
        if labs:  # on one branch of a concatenation: elsewhere it would make the network constant
            model.get_submodule("stages.0.blocks.0.layers.1.lab").scale.zero_()
    return model.eval()
