"""Where the C++ sources and their library are, and which sources a library is of.

setup.py runs this file by itself, so it imports nothing of the project.
"""

import hashlib
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
LIBRARY = FOLDER / ("libspecexec.dylib" if sys.platform == "darwin" else "libspecexec.so")


def files() -> list[Path]:
    """All C++ sources and headers; none where an installed package has only the library."""
    return sorted([*FOLDER.glob("*.cpp"), *FOLDER.glob("*.h")])


def version() -> str:
    """What a library of the present sources calls itself."""
    whole = hashlib.sha256()
    for path in files():
        whole.update(hashlib.sha256(path.name.encode() + path.read_bytes()).digest())
    return whole.hexdigest()[:16]
