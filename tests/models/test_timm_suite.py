"""timm's own model tests on the models of this package. Needs the package index, from which timm's sources come."""

import os
import subprocess
import sys
import tarfile

import pytest
import timm
from models.released import write_released

from dat_train.models.weights.published_weights import PUBLISHED

NAMES = ("dat_tiny", "datpp_tiny", "dat_nano")
RUN = """
import sys, pytest, dat_train.models
sys.exit(pytest.main(["-q", "-W", "ignore", "-p", "no:cacheprovider", "tests/test_models.py", "-k", sys.argv[1]]))
"""


@pytest.mark.slow
def test_all_of_timms_model_tests_but_those_of_torchscript_pass(tmp_path):
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
    if subprocess.run([*download, "-d", tmp_path, f"timm=={timm.__version__}"]).returncode:
        pytest.skip("timm's sources cannot be downloaded")
    (archive,) = tmp_path.glob("timm-*.tar.gz")
    with tarfile.open(archive) as sources:
        sources.extractall(tmp_path, filter="data")
    folder = tmp_path / archive.name.removesuffix(".tar.gz")
    tests = folder / "tests" / "test_models.py"
    text = tests.read_text()
    marked = text.replace("FEAT_INTER_FILTERS = [\n", "FEAT_INTER_FILTERS = [\n    'registry',\n")  # our module
    assert marked != text
    tests.write_text(marked)
    for name in set(NAMES) & PUBLISHED.keys():  # random weights in place of the published ones
        write_released(timm.create_model(name), tmp_path / PUBLISHED[name].file)
    chosen = f"({' or '.join(NAMES)}) and not torchscript"
    environment = os.environ | {"DAT_TRAIN_WEIGHTS": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, chosen], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "failed" not in done.stdout and int(done.stdout.split(" passed")[0].split()[-1]) >= 30
