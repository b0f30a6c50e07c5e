"""PP-HGNetV2 B0-B6 in PyTorch, from labelled and unlabelled images to a measured classifier."""

import os

__version__ = "0.1.0"

# Threads that wait for work should sleep, not spin: where processes outnumber cores (side-by-side
# runs, a shared machine) spinning made a training step nine times slower. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
