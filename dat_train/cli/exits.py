"""Exit of a command with one line on standard error."""

import os
import re
import sys
from typing import NoReturn


def stop(message: str, code: int) -> NoReturn:
    """Print one line, in the main process only, and exit with `code`."""
    if os.environ.get("RANK", "0") == "0":
        print(re.sub(r"\s*\n\s*", " ", message.strip()), file=sys.stderr, flush=True)
    sys.exit(code)
