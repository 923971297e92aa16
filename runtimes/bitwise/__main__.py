"""``python -m runtimes.bitwise [FILE]`` compiles the kernels now, and copies the library to FILE if one is named.

A machine without a compiler takes such a file, made on one of its kind, from the variable EDGEPRESS_BITWISE_LIBRARY.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from .build import BuildFailed, library


def main(arguments: list[str] | None = None) -> int:
    """Print where the library is; the exit code is 3 where it cannot be made."""
    parser = argparse.ArgumentParser(prog="python -m runtimes.bitwise", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE")
    asked = parser.parse_args(arguments)
    try:
        built = library()
        if asked.file is not None:
            shutil.copyfile(built, asked.file)
    except (BuildFailed, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    print(asked.file or built)
    return 0


if __name__ == "__main__":
    sys.exit(main())
