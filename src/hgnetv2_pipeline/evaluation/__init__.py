"""From logits and labels to metrics. ``metrics`` needs NumPy alone."""
