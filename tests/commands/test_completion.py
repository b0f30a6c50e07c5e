"""What a shell is offered for options of closed sets."""

from __future__ import annotations

import pytest
from click.shell_completion import BashComplete

from hgnetv2_pipeline.commands.main import main


@pytest.mark.parametrize(
    ("words", "begun", "offered"),
    [
        (["predict", "--engine"], "open", ["openvino"]),
        (["serve", "--engine"], "torch", ["torch", "torch-compiled", "torch-cuda-graph"]),
        (["export-weights", "--style"], "d", ["dfine"]),
        (["predict", "--format"], "j", ["jsonl"]),
        ([], "st", ["stages"]),
    ],
)
def test_names_are_completed(words: list[str], begun: str, offered: list[str]) -> None:
    found = BashComplete(main, {}, "hgnetv2", "_HGNETV2_COMPLETE").get_completions(words, begun)
    assert [each.value for each in found] == offered


def test_every_command_says_in_one_line_what_it_does_and_takes_verbose() -> None:
    for name, command in main.commands.items():
        assert not command.get_short_help_str(60).endswith("..."), name
        assert any("--verbose" in option.opts for option in command.params), name
