"""From weights to answers elsewhere: export, engines, prediction, timing.

Predicting with an ONNX file imports neither torch nor pandas.
"""
