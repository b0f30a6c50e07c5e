"""Every promised row has a test that names it, and docs/reliability.md says which."""

from __future__ import annotations

import fault_rows


def test_every_row_is_named_by_a_test_or_said_to_be_open() -> None:
    named = {row for found in fault_rows.tests() for row in found.rows}
    assert named == fault_rows.ROWS.keys() - fault_rows.OPEN.keys()


def test_the_page_is_what_the_tests_say() -> None:
    written = fault_rows.PAGE.read_text(encoding="utf-8")
    assert written == fault_rows.page(), "python tests/fault_rows.py writes it again"
