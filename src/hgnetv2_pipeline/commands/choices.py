"""Options that take one name of a closed set: completed by the shell, and a slip is answered by the
nearest name on one line."""

from __future__ import annotations

from typing import Any

import click

from hgnetv2_pipeline.errors import unknown_name


class OneOf(click.Choice[str]):
    """As ``click.Choice``, but for the error."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """``value``, or ParameterError."""
        if value in self.choices:
            return str(value)
        where = param.opts[0] if param else "an option"
        raise unknown_name(where.lstrip("-"), value, self.choices, where)
