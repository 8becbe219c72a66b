"""The tables of docs/scaling.md are printed by the script, which models a ring all-reduce."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts/plan_scaling.py"


@pytest.fixture(scope="module")
def planning():
    spec = importlib.util.spec_from_file_location("plan_scaling", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_in_the_docs_are_printed_by_the_script():
    found = re.findall(
        r"`python scripts/plan_scaling.py( [^`]*)?`\n\n((?:\|.*\n)+)", (ROOT / "docs/scaling.md").read_text()
    )
    assert len(found) == 3
    for arguments, table in found:
        done = subprocess.run([sys.executable, SCRIPT, *arguments.split()], capture_output=True, text=True, check=True)
        assert done.stdout == table


def test_two_gpus_send_the_gradients_once_each_way(planning):
    links = {"link": 10e9, "node": 8, "node_link": 100e9}
    plan = planning.plan(2, parameters=25e6, images_per_second=100, batch=100, **links)
    assert plan.images == 50 and plan.compute == 0.5
    assert plan.communication == pytest.approx(2 * 0.5 * 100e6 / 100e9, rel=0.05)
    assert plan.exposed == pytest.approx(plan.communication / 4, rel=1e-6)  # the last of four buckets
    assert plan.images_per_second == pytest.approx(100 / (0.5 + plan.exposed))


def test_communication_longer_than_the_backward_pass_is_exposed(planning):
    slow = {"link": 1e9, "node": 1, "node_link": 1e9}
    plan = planning.plan(10, parameters=250e6, images_per_second=100, batch=100, **slow)
    assert plan.exposed == pytest.approx(plan.communication - 2 / 3 * plan.compute)


def test_one_gpu_has_no_communication(planning):
    plan = planning.plan(1, parameters=1e6, images_per_second=100, batch=50, link=1e9, node=8, node_link=1e9)
    assert plan.communication == plan.exposed == 0 and plan.efficiency == 1
