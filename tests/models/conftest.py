"""What the tests of networks share."""

from filled_networks import filled, one_thread  # noqa: F401 - fixtures
