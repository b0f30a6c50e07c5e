"""A sweep: several variants, sizes and precisions made by one chain, set side by side."""
