"""What the tests of weight files share."""

from filled_networks import filled, one_thread  # noqa: F401 - fixtures
