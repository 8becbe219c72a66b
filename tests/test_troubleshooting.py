"""docs/troubleshooting.md: every message on it is produced by a test."""

import re
from pathlib import Path

import pytest
from troubleshooting import PAGE, entries, entry

TESTS = "\n".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py"))


def test_every_heading_of_a_message_is_an_entry():
    headings = re.findall(r"^### (.*)$", PAGE.read_text(encoding="utf-8"), re.M)
    assert len(headings) == len(entries()) > 5


@pytest.mark.parametrize("id_", entries())
def test_every_message_is_produced_by_a_test(id_):
    assert f'entry("{id_}")' in TESTS


@pytest.mark.parametrize("id_", entries())
def test_every_entry_has_a_cause_and_what_to_type(id_):
    text = entries()[id_][1]
    assert re.search(r"^Cause: \S", text, re.M) and re.search(r"^Type: \S", text, re.M)
    assert entry(id_).search(entries()[id_][0].replace("...", "anything"))
