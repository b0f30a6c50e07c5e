"""Building, checking and timing TensorRT plans: what also travels to a machine without PyTorch.

These modules import the standard library, NumPy, TensorRT and CUDA's Python bindings, and each
other, nothing else of this package: ``kit_folder`` copies them into a kit as they are.
"""
