"""Training: recipes, losses, optimisers, the loop, exact checkpoints, a run's folder."""
