"""Which room feeds which: thin Kedro nodes, one folder per pipeline."""
