"""From an image file to a batch: loader processes decode, augment and stack.

In go tables of samples and a step number; out come tensors [N, 3, H, W] with their labels.
"""
