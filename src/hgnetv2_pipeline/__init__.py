"""PP-HGNetV2 B0-B6 in PyTorch, from labelled and unlabelled images to a measured classifier."""

__version__ = "0.1.0"
