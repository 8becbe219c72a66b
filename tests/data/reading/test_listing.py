"""Lists of paths as shells and tools of different systems write them."""

import pytest

from dat_train.data.reading.listing import list_images, parse_list

PATHS = ["a.jpg", "übung/ß 2.png", "x/猫.webp"]


@pytest.mark.parametrize(("encoding", "end"), [
    ("utf-8", "\n"), ("utf-8", "\r\n"), ("utf-8-sig", "\n"), ("utf-16", "\r\n"), ("utf-16-le", "\r\n"),
    ("utf-16-be", "\n"), ("utf-8", "\0"), ("utf-8", "\r"),
])  # fmt: skip
def test_a_list_in_any_of_these_forms(encoding, end):
    assert parse_list((end.join(PATHS) + end).encode(encoding)) == PATHS
    assert parse_list(end.join(PATHS).encode(encoding)) == PATHS


def test_names_with_a_newline_and_names_that_are_not_utf_8():
    assert parse_list(b"two\nlines.jpg\0caf\xe9.jpg\0") == ["two\nlines.jpg", "caf\udce9.jpg"]
    assert parse_list(b"") == parse_list(b"\n\n") == []


def test_a_list_is_taken_where_it_is_named():
    assert list_images(["first.jpg", "-", "last.jpg"], lambda: b"a.jpg\n") == ["first.jpg", "a.jpg", "last.jpg"]


def test_other_files_of_a_folder_are_said(tmp_path):
    for name in ("1.png", "notes.txt", "raw.cr2"):
        (tmp_path / name).touch()
    notes = []
    assert list_images([str(tmp_path)], note=notes.append) == [f"{tmp_path}/1.png"]
    assert notes == [f"{tmp_path}: files that are not images: 2 (1 .txt, 1 .cr2)"]
