"""Class names and paths of unknown content on one line."""

import pytest
from rich.cells import cell_len

from dat_train.runtime.display_text import one_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r\n\tc  d", "a b c d"),
        ("red \x1b[31m", "red [31m"),
        ("caf\udce9", "caf\\xe9"),
        ("half \ud83d", "half \\ud83d"),
        ("a\u202eb\u2066c", "abc"),
        ("👩‍👩‍👧", "👩‍👩‍👧"),
        ("قطة", "قطة"),
    ],
)
def test_the_result_is_one_printable_line(text, shown):
    assert one_line(text) == shown
    one_line(text).encode("utf-8")


def test_long_text_is_shortened_to_columns_not_characters():
    assert one_line("abcdef", 6) == "abcdef" and one_line("abcdefg", 6) == "abcde…"
    assert one_line("鳥鳥鳥鳥", 6) == "鳥鳥…" and cell_len(one_line("鳥" * 99, 20)) <= 20
