"""From a network to files that other runtimes read, and the checks they must pass."""
