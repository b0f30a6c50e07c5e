"""One tiny interface (``base.Engine``), one file for each way to run a model."""
