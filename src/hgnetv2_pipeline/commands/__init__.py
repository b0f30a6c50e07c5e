"""The ``hgnetv2`` command and its subcommands."""
