"""An export appears under its name only when it is complete; an earlier one stays until then."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dat_train.export.staging import staged_file, staged_folder

NAMES = ("a", "b", "c")


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_new_folder_has_its_name_after_the_block(tmp_path):
    with staged_folder(tmp_path / "x" / "export", NAMES) as folder:
        write(folder, a="new")
        assert not (tmp_path / "x" / "export").exists()
    assert content(tmp_path / "x" / "export") == {"a": "new"} and entries(tmp_path / "x") == {"export"}


def test_an_error_leaves_the_earlier_folder_and_nothing_else(tmp_path):
    write(tmp_path / "export", a="old", b="old")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), staged_folder(tmp_path / "export", NAMES) as folder:
            write(folder, a="new")
            raise ZeroDivisionError
    assert content(tmp_path / "export") == {"a": "old", "b": "old"} and entries(tmp_path) == {"export"}


def test_files_of_an_earlier_export_do_not_remain(tmp_path):
    write(tmp_path / "export", a="old", b="old")
    with staged_folder(tmp_path / "export", NAMES) as folder:
        write(folder, a="new")
        assert content(tmp_path / "export") == {"a": "old", "b": "old"}
    assert content(tmp_path / "export") == {"a": "new"} and entries(tmp_path) == {"export"}


def test_other_files_in_the_folder_are_kept(tmp_path):
    write(tmp_path / "export", a="old", b="old", notes="mine")
    write(tmp_path / "export" / ".git", HEAD="ref")
    with staged_folder(tmp_path / "export", NAMES) as folder:
        write(folder, a="new", c="new")
        assert content(tmp_path / "export")["a"] == "old"
    assert content(tmp_path / "export") == {"a": "new", "c": "new", "notes": "mine"}
    assert entries(tmp_path / "export") == {"a", "c", "notes", ".git"}


def test_the_working_directory_and_a_link_stay_in_place(tmp_path, monkeypatch):
    write(tmp_path / "here", a="old", b="old")
    (tmp_path / "link").symlink_to("here")
    monkeypatch.chdir(tmp_path / "here")
    for path in (Path(), tmp_path / "link"):
        with staged_folder(path, NAMES) as folder:
            write(folder, a="new")
        assert Path("a").read_text() == "new" and entries(tmp_path) == {"here", "link"} and entries(Path()) == {"a"}


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    write(tmp_path, export="a file")
    with pytest.raises(NotADirectoryError), staged_folder(tmp_path / "export", NAMES):
        pass
    assert content(tmp_path) == {"export": "a file"}


def test_a_kill_leaves_the_earlier_export_and_the_next_one_cleans_up(tmp_path):
    write(tmp_path / "export", a="old")
    code = (
        "import os, pathlib, signal\n"
        "from dat_train.export.staging import staged_folder\n"
        f"with staged_folder(pathlib.Path('export'), {NAMES}) as folder:\n"
        "    (folder / 'a').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    assert killed.returncode == -signal.SIGKILL and content(tmp_path / "export") == {"a": "old"}
    with staged_folder(tmp_path / "export", NAMES) as folder:
        assert not entries(folder)
    assert entries(tmp_path) == {"export"}


def test_a_kill_between_the_renames_is_repaired_by_the_next_export(tmp_path):
    write(tmp_path / ".export.old", a="old")
    with pytest.raises(ZeroDivisionError), staged_folder(tmp_path / "export", NAMES):
        raise ZeroDivisionError
    assert content(tmp_path / "export") == {"a": "old"}


def test_a_file_replaces_the_earlier_one_only_on_success(tmp_path):
    write(tmp_path, model="old")
    with pytest.raises(ZeroDivisionError), staged_file(tmp_path / "model") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert content(tmp_path) == {"model": "old"}
    with staged_file(tmp_path / "model") as temporary:
        temporary.write_text("new")
    assert content(tmp_path) == {"model": "new"}
