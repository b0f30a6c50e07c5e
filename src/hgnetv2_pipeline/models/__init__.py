"""The networks: a variant's name goes in, a torch module comes out; no file is read here."""

from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.models.fast_layers import fast_training
from hgnetv2_pipeline.models.features import FeatureDict
from hgnetv2_pipeline.models.fold import reparameterize
from hgnetv2_pipeline.models.frozen import freeze
from hgnetv2_pipeline.variants import VARIANTS

__all__ = ["VARIANTS", "FeatureDict", "create_model", "fast_training", "freeze", "reparameterize"]
