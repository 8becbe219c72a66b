"""docs/reliability.md: the tests it names exist, and its list of settings that may change is the schema's."""

import ast
import re
from pathlib import Path

from dat_train.cli.settings.setting import settings
from dat_train.cli.settings.train import TrainConfig

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/reliability.md").read_text()


def names_in(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_every_test_it_names_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
    assert len(named) > 30
    for path, name in named:
        assert name in names_in(ROOT / path), f"{path}::{name}"


def test_every_fault_names_its_test():
    table = TEXT[TEXT.index("| fault |") :].partition("\n\n")[0].splitlines()[2:]
    assert len(table) > 20
    for row in table:
        assert "`tests/" in row.split("|")[3], row


def test_the_settings_that_may_change_are_those_of_the_schema():
    listed = TEXT[TEXT.index("<!-- may_change -->") : TEXT.index("<!-- /may_change -->")]
    assert sorted(re.findall(r"`([\w.]+)`", listed)) == sorted(s.key for s in settings(TrainConfig) if s.may_change)
