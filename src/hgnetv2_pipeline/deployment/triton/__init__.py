"""A model repository for Triton Inference Server: the network, and image bytes before it."""
