"""PyTorch's checkpoints: their archive, their pickles, and what lies beside the weights in them."""
