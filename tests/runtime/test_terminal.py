"""Output on the terminal."""

import io
import os
import pty
import re
import sys
from pathlib import Path

import pytest

from dat_train.runtime.terminal import Terminal, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7620, "2 h 07 min"),
        (100_800, "1 d 4 h"),
    ],
)
def test_durations_are_formatted_in_the_largest_units(seconds, text):
    assert duration(seconds) == text


def test_lines_are_written_to_the_screen_and_with_the_time_to_the_file(tmp_path, capsys):
    terminal = Terminal(tmp_path / "log.txt")
    terminal.say("one\n  two")
    terminal.warn("three")
    assert capsys.readouterr().out == "one\n  two\nwarning: three\n"
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in lines)
    assert [line[21:] for line in lines] == ["one", "  two", "warning: three"]


def test_paths_that_are_not_utf_8_can_be_logged(tmp_path):
    Terminal(tmp_path / "log.txt", screen=False).say("data in caf\udce9")
    assert (tmp_path / "log.txt").read_text(encoding="utf-8").endswith("data in caf\\udce9\n")


def test_without_a_terminal_there_is_no_bar(capsys):
    terminal = Terminal()
    terminal.progress(1, 10, "training")
    terminal.close()
    assert capsys.readouterr().out == ""


def test_other_processes_write_to_their_file_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    terminal = Terminal(tmp_path / "log-rank1.txt", screen=False)
    terminal.say("here")
    terminal.progress(1, 10)
    assert capsys.readouterr().out == "" and "here" in (tmp_path / "log-rank1.txt").read_text()


def test_a_full_disk_does_not_end_the_run(monkeypatch):
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(full, write_through=True))
        with pytest.raises(OSError, match="No space left"):
            print("a plain line")
        Terminal(Path("/dev/full")).say("a line of the run")


def test_on_a_terminal_a_progress_bar_is_below_the_lines(monkeypatch):
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as screen:
        monkeypatch.setattr(sys, "stdout", screen)
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setenv("TERM", "xterm")
        terminal = Terminal()
        assert terminal.live
        terminal.progress(250, 1000, "loss 1.25")
        terminal.say("epoch 1   validation [not markup]")
        terminal.progress(500, 1000)
        terminal.close()
        screen.flush()
        shown = b""
        while b"\x1b[?25h" not in shown:  # it comes in pieces
            shown += os.read(leader, 100_000)
        shown = shown.decode()
    os.close(leader)
    assert "step 250/1,000" in shown and "25 %" in shown
    assert "epoch 1   validation [not markup]" in shown
    assert "step 500/1,000" in shown and "50 %  loss 1.25" in shown
    assert shown.index("\x1b[?25l") < shown.index("\x1b[?25h")  # the cursor is back
