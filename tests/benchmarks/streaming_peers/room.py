"""Large files are written after a look at the disk, with leave, and are there whole or not at all."""

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SPARE = 2**30  # bytes of the disk left to others


def ask(out: Path, nbytes: int, leave: bool) -> None:
    """Exits with two lines where `out` is there, the disk is too small, or nobody said --yes."""
    if out.exists():
        sys.exit(f"{out} is there already.\nanother --out, or remove it")
    free = shutil.disk_usage(out.absolute().parent).free
    if free < nbytes + SPARE:
        sys.exit(f"{out} takes {gigabytes(nbytes)} of {gigabytes(free)} free.\n--out on a larger disk, or a smaller --shape")
    if not leave:
        sys.exit(f"{out} takes {gigabytes(nbytes)} of {gigabytes(free)} free.\nthe same command with --yes")


@contextmanager
def making(out: Path) -> Iterator[Path]:
    """A temporary name, which becomes `out` if all goes well and goes away if not; says how long that took."""
    part, began = out.with_name(out.name + ".part"), time.perf_counter()
    try:
        yield part
        part.replace(out)
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        part.unlink(missing_ok=True)
    took, nbytes = time.perf_counter() - began, size(out)
    print(f"{out}: {gigabytes(nbytes)} in {took:.0f} s, {nbytes / took / 1e9:.2f} GB/s")


def size(path: Path) -> int:
    """Bytes of a file, or of the weights in a folder."""
    return sum(one.stat().st_size for one in weights(path))


def weights(path: Path) -> list[Path]:
    return sorted(path.glob("*.safetensors")) if path.is_dir() else [path]


def gigabytes(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f} GB"
