"""Messages of docs/troubleshooting.md as patterns, so that a test shows that the program prints them.

An entry of the page is a heading with an anchor, a fenced block with the message, the cause, and what to type:

    ### Title <a id="shm"></a>

    ```
    error: ... message with "..." in place of what varies
    ```

A test that produces the message asserts `entry("shm").search(stderr)`. Line breaks of the page stand for one space.
"""

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "troubleshooting.md"
ENTRY = re.compile(r'^### [^\n]*<a id="([\w-]+)"></a>\n\n```\n(.*?)\n```\n\n(.*?)(?=^##|\Z)', re.M | re.S)


def entries() -> dict[str, tuple[str, str]]:
    """Message and explanation by id."""
    return {id_: (message, text) for id_, message, text in ENTRY.findall(PAGE.read_text(encoding="utf-8"))}


def entry(id_: str) -> re.Pattern[str]:
    """The entry's message as a pattern; "..." stands for any text on one line, and spaces for any white space."""
    words = re.split(r"(\.\.\.|\s+)", entries()[id_][0].strip())
    return re.compile("".join(".*?" if w == "..." else r"\s+" if w.isspace() else re.escape(w) for w in words))
