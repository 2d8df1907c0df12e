"""python -m tests.fuzz --minutes 10: random calls of every instruction set's kernels under the sanitizers (fuzz.cpp).

A case that fails is named by its number; --seed NUMBER --minutes 0 runs it alone.
"""

import argparse
import hashlib
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from setuptools.errors import CompileError

from specexec.kernels import sources
from tests.kernels import SETS

ROOT = Path(__file__).parents[2]
DRIVER = Path(__file__).with_name("fuzz.cpp")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
QUICK = ("-fno-sanitize=alignment,null,object-size,pointer-overflow",)  # asked at every load: more than half of the compilation
FLAGS = ("-g1", "-O1", "-fno-omit-frame-pointer")


@cache
def recipe() -> dict[str, Any]:
    """setup.py's names; nothing of it is done."""
    with patch("setuptools.setup"):
        return runpy.run_path(str(ROOT / "setup.py"))


def why_not() -> str | None:
    """What keeps the driver from being built here."""
    try:
        accepted = recipe()["named_compiler"]().accepts(*SANITIZERS)
    except CompileError as error:
        return str(error)
    return None if accepted else "the compiler has no sanitizers"


def build(isa: str, quick: bool) -> Path:
    """The driver with this set's kernels: compiled unless it is there. quick: with fewer checks a load, compiled sooner."""
    made = recipe()
    compiler = made["named_compiler"]()
    openmp = ("-fopenmp",) if compiler.accepts("-fopenmp", source=made["OPENMP"]) else ()
    kept = [flag for flag in made["FLAGS"] if not flag.startswith(("-O", "-fvisibility", "-fPIC"))]
    checked = (*SANITIZERS, *(QUICK if quick else ()))
    flags = (*kept, *FLAGS, *checked, *openmp, *compiler.sets()[isa], f"-I{sources.FOLDER}", f"-DSPECEXEC_ISA={isa}")
    content = b"".join([repr((compiler, flags)).encode(), *(path.read_bytes() for path in [DRIVER, *sources.files()])])
    out = ROOT / "build" / "fuzz" / f"{isa}-{hashlib.sha256(content).hexdigest()[:16]}" / "fuzz"
    if not out.exists():
        units = [DRIVER, *(sources.FOLDER / f"{unit}.cpp" for unit in made["UNITS"])]
        out.parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(2) as pool:
            objects = list(pool.map(lambda unit: compiled(unit, out.parent, [*compiler.command, *flags]), units))
        subprocess.run([*compiler.command, *SANITIZERS, *openmp, *map(str, objects), "-o", str(out)], check=True)
    return out


def compiled(unit: Path, folder: Path, command: list[str]) -> Path:
    out = folder / f"{unit.stem}.o"
    subprocess.run([*command, "-c", str(unit), "-o", str(out)], check=True)
    return out


def run(isa: str, seconds: float, seed: int, quick: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(build(isa, quick)), str(seconds), str(seed)], capture_output=True, text=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10, help="shared by the instruction sets")
    parser.add_argument("--sets", nargs="*", default=list(SETS), help="instruction sets (default: all this machine runs)")
    parser.add_argument("--seed", type=int, default=1, help="number of the first case")
    given = parser.parse_args()
    failed = 0
    for isa in given.sets:
        ran = run(isa, 60 * given.minutes / len(given.sets), given.seed)
        print(f"{isa}: {ran.stdout.strip() or 'failed'}\n{ran.stderr}".strip(), flush=True)
        failed += ran.returncode != 0
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
