#!/usr/bin/env python3
"""Read every image below a folder as training would, and name those that cannot be read.

    python scripts/data/check_images.py FOLDER [--workers N]

The unreadable files go to the standard output, a path and its reason on each line; the count to the standard error.
Exit code: 0 all can be read, 1 some cannot, 2 there is nothing to check.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from multiprocessing import Pool
from pathlib import Path

AT_ONCE = 32  # images handed to a process at a time


def complaint(path: str) -> str | None:
    """What is wrong with the image at `path`; None: nothing."""
    from dat_train.data.images import UnreadableImage, read_rgb

    try:
        read_rgb(path)
    except UnreadableImage as error:
        return str(error)
    return None


def main(arguments: Sequence[str] | None = None) -> None:
    from dat_train.data.folders import image_paths

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="with images in it, or in folders below")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (%(default)s: one a core)")
    options = parser.parse_args(arguments)
    paths = image_paths(options.folder)
    if not paths:
        parser.error(f"there are no images in {options.folder}")
    unreadable = 0
    try:
        with Pool(max(1, options.workers)) as pool:
            for text in filter(None, pool.imap(complaint, paths, chunksize=AT_ONCE)):
                unreadable += 1
                print(text, flush=True)
    except KeyboardInterrupt:
        sys.exit("interrupted")
    print(f"{unreadable:,} of {len(paths):,} images cannot be read", file=sys.stderr)
    sys.exit(1 if unreadable else 0)


if __name__ == "__main__":
    main()
