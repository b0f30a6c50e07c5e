"""Several processes for one job: side by side, and as one group that trains together."""
