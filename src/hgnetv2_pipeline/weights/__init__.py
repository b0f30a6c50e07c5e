"""Weight files: each format is read into tensors by name, checked, loaded into a network, written.

``load`` and ``build`` need torch; ``zoo``, the table of published weights, does not.
"""
