"""Atomic writing: a kill or a full disk at any moment leaves the old file or the new one."""

import csv
import errno
import json
import signal
import subprocess
import sys

import pytest

from dat_train.atomic import read_json, replacing, write_bytes, write_csv, write_json, write_text

KILLED_IN_THE_WRITE = """
import os, signal, sys
from pathlib import Path
from dat_train.atomic import replacing
with replacing(Path(sys.argv[1])) as file:
    file.write(b'{"steps": ')
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_BEFORE_THE_RENAME = """
import os, signal, sys
from pathlib import Path
from dat_train.atomic import write_json
sys.addaudithook(lambda event, _: os.kill(os.getpid(), signal.SIGKILL) if event == "os.rename" else None)
write_json(Path(sys.argv[1]), {"steps": 2})
"""


@pytest.mark.parametrize("program", [KILLED_IN_THE_WRITE, KILLED_BEFORE_THE_RENAME])
def test_a_kill_inside_the_write_leaves_the_old_file(tmp_path, program):
    path = tmp_path / "summary.json"
    write_json(path, {"steps": 1})
    assert subprocess.run([sys.executable, "-c", program, str(path)]).returncode == -signal.SIGKILL
    assert (tmp_path / ".summary.json.new").exists()
    assert read_json(path) == {"steps": 1}
    write_json(path, {"steps": 3})
    assert read_json(path) == {"steps": 3} and list(tmp_path.iterdir()) == [path]


def test_an_error_inside_the_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "page.html"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(OSError):
        write_bytes(tmp_path / "missing" / "file", b"")


@pytest.mark.parametrize("content", [b"", b'{"steps": 1', b"\xff\xfe", None])
def test_a_damaged_or_missing_file_reads_as_none(tmp_path, content):
    path = tmp_path / "summary.json"
    if content is not None:
        path.write_bytes(content)
    assert read_json(path) is None


def test_text_of_any_content_is_utf8_with_unix_line_ends(tmp_path):
    path = tmp_path / "text"
    write_text(path, "犬\n\udcff", errors="replace")
    assert path.read_bytes() == "犬\n?".encode()
    write_json(path, {"class": "犬"})
    assert json.loads(path.read_text()) == {"class": "犬"}


def test_a_table_has_four_decimals_nothing_for_nan_and_names_with_any_bytes(tmp_path):
    write_csv(tmp_path / "table.csv", ("name", "n", "share"), [("a,\udcff", 1, 0.5), ("b", 2, float("nan"))])
    assert (tmp_path / "table.csv").read_bytes() == b'name,n,share\n"a,\xff",1,0.5000\nb,2,\n'


def test_a_table_is_read_back_with_line_ends_inside_names(tmp_path):
    names = ["a\rb", "c\nd", "e\r\nf", "g"]
    write_csv(tmp_path / "table.csv", ("name",), [(name,) for name in names])
    with (tmp_path / "table.csv").open(newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["name", *names]


def test_an_error_without_a_file_name_gets_one(tmp_path):
    """As of a full disk: the name is in the error message of the commands."""
    with pytest.raises(OSError) as caught, replacing(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "file")
