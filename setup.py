"""Compiles specexec/kernels/*.cpp into one library: the kernels once an instruction set, the dispatch once.

Without a working compiler specexec is installed all the same and runs slower; SPECEXEC_REQUIRE_KERNELS=1 makes that an error.
SPECEXEC_SKIP_KERNELS=1: whoever installs compiles them himself, at the same time.
"""

import hashlib
import os
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

from setuptools import Command, Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.errors import CompileError

KERNELS = Path("specexec/kernels")
OBJECTS = Path("build/kernels")
SOURCES = runpy.run_path(str(KERNELS / "sources.py"))  # imported, its package could be another, installed specexec
LIBRARY = KERNELS / SOURCES["LIBRARY"].name
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-Wall", "-Wextra")
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = (*(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq", "vnni", "vbmi")), *AVX2,
          "-Wno-uninitialized")  # gcc 12 warns of its own headers; the other sets warn of ours
PORTABLE = ("-O2", "-ftree-vectorize")  # with -O3 products of 8 bits take twice as long, and gcc as well
NEON = () if sys.platform == "darwin" else ("-march=armv8.2-a+dotprod+fp16",)
SETS: dict[str, dict[str, tuple[str, ...]]] = {  # best first, portable last
    "x86_64": {"avx512": AVX512, "avxvnni": (*AVX2, "-mavxvnni"), "avx2": AVX2, "portable": PORTABLE},
    "aarch64": {"neon": NEON, "portable": PORTABLE},
}
SETS["arm64"] = SETS["aarch64"]
UNITS = ("linear", "attention", "rows", "hierarchical", "logits", "noise")
OPENMP = "#include <omp.h>\nint probe() { return omp_get_max_threads(); }"


@dataclass(frozen=True)
class Compiler:
    command: tuple[str, ...]

    def ask(self, *arguments: str) -> str:
        return subprocess.run([*self.command, *arguments], check=True, capture_output=True, text=True).stdout

    @cached_property
    def version(self) -> str:
        return self.ask("--version")

    def accepts(self, *flags: str, source: str = "") -> bool:
        """Whether it links a library of source with these flags."""
        with tempfile.TemporaryDirectory() as folder:
            command = [*self.command, *flags, "-fPIC", "-shared", "-x", "c++", "-", "-o", str(Path(folder, "probe"))]
            return subprocess.run(command, input=source, capture_output=True, text=True).returncode == 0

    def sets(self) -> dict[str, tuple[str, ...]]:
        """Flags of each instruction set it compiles for, best first."""
        known = SETS.get(self.ask("-dumpmachine").split("-")[0], {"portable": PORTABLE})
        return {name: flags for name, flags in known.items() if self.accepts(*flags)}


@dataclass(frozen=True)
class Unit:
    """One source compiled with one set of flags."""

    source: Path
    name: str
    flags: tuple[str, ...]

    def object(self, compiler: Compiler) -> Path:
        """Named after all that decides its content, so that none is ever taken for another."""
        headers = [path.read_bytes() for path in sorted(KERNELS.glob("*.h"))]
        what = [repr((compiler.command, compiler.version, self.flags)).encode(), self.source.read_bytes(), *headers]
        return OBJECTS / f"{self.name}-{hashlib.sha256(b''.join(what)).hexdigest()[:16]}.o"


def named_compiler() -> Compiler:
    """CXX, or the first there is; g++ before clang++ on Linux, since torch brings g++'s OpenMP."""
    found = next((name for name in ("g++", "c++", "clang++") if shutil.which(name)), None)
    command = os.environ.get("CXX") or found
    if not command:
        raise CompileError("there is no C++ compiler")
    return Compiler(tuple(shlex.split(command)))


def units(compiler: Compiler) -> list[Unit]:
    """In the order they are linked: the linker keeps the first of equal inline functions, which must run on every CPU."""
    flags = (*FLAGS, "-fopenmp") if compiler.accepts("-fopenmp", source=OPENMP) else FLAGS
    sets = compiler.sets()
    listed = " ".join(f"X({name})" for name in sets)
    entry = (*flags, f"-DSPECEXEC_ISAS={listed}", f'-DSPECEXEC_VERSION="{SOURCES["version"]()}"')
    return [Unit(KERNELS / "entry.cpp", "entry", entry)] + [
        Unit(KERNELS / f"{unit}.cpp", f"{name}-{unit}", (*flags, *extra, f"-DSPECEXEC_ISA={name}"))
        for name, extra in reversed(sets.items()) for unit in UNITS]


def compile_unit(unit: Unit, compiler: Compiler) -> Path:
    """The unit's object, compiled unless it is there."""
    out = unit.object(compiler)
    if not out.exists():
        making = out.with_suffix(f".{os.getpid()}.o")
        subprocess.run([*compiler.command, *unit.flags, "-c", str(unit.source), "-o", str(making)], check=True)
        making.replace(out)
    return out


def longest_first(unit: Unit) -> int:
    return UNITS.index(unit.source.stem) if unit.source.stem in UNITS else len(UNITS)


@contextmanager
def alone() -> Iterator[None]:
    """Who comes second waits and finds the objects: `make setup` compiles while pip downloads, and then pip builds."""
    import fcntl

    OBJECTS.mkdir(parents=True, exist_ok=True)
    with (OBJECTS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build_library(out: Path) -> None:
    """Compiles in parallel and links; replaces out in one step, since a process may be running it."""
    compiler = named_compiler()
    parts = units(compiler)
    with alone(), ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(partial(compile_unit, compiler=compiler), sorted(parts, key=longest_first)):
            pass
    objects = [part.object(compiler) for part in parts]
    strict = () if sys.platform == "darwin" else ("-Wl,-z,defs",)
    openmp = ("-fopenmp",) if "-fopenmp" in parts[0].flags else ()
    making = out.with_suffix(f".{os.getpid()}")
    subprocess.run([*compiler.command, "-shared", *openmp, *strict, *map(str, objects), "-o", str(making)], check=True)
    making.replace(out)
    for old in set(OBJECTS.glob("*.o")) - set(objects):
        old.unlink(missing_ok=True)


class BuildKernels(Command):
    """python setup.py build_kernels --inplace: what an editable install does."""

    description = "compile the kernels into one library"
    user_options: ClassVar = [("inplace", "i", "leave the library among the sources")]
    boolean_options: ClassVar = ["inplace"]
    editable_mode = False

    def initialize_options(self) -> None:
        self.build_lib, self.inplace = "", False

    def finalize_options(self) -> None:
        self.build_lib = self.get_finalized_command("build").build_lib

    def run(self) -> None:
        if os.environ.get("SPECEXEC_SKIP_KERNELS") == "1":
            return
        out = self._made()
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            build_library(out)
        except (OSError, subprocess.CalledProcessError, CompileError) as error:
            out.unlink(missing_ok=True)
            self._give_up(error)

    def _built(self) -> Path:
        return Path(self.build_lib, LIBRARY)

    def _made(self) -> Path:
        return LIBRARY if self.inplace or self.editable_mode else self._built()

    def _give_up(self, error: Exception) -> None:
        what = f"{error.cmd[0]} failed" if isinstance(error, subprocess.CalledProcessError) else str(error)
        if os.environ.get("SPECEXEC_REQUIRE_KERNELS") == "1":
            raise CompileError(f"no kernels: {what}") from error
        print(f"specexec: no kernels, {what}: the torch reference runs, several times slower", file=sys.stderr)

    def get_source_files(self) -> list[str]:
        return [str(KERNELS / path.name) for path in SOURCES["files"]()]

    def get_outputs(self) -> list[str]:
        return [str(self._built())] if self._made().exists() else []

    def get_output_mapping(self) -> dict[str, str]:
        return dict.fromkeys(self.get_outputs(), str(LIBRARY)) if self.editable_mode else {}


class Build(build):
    sub_commands: ClassVar = [*build.sub_commands, ("build_kernels", None)]


class Wheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        """The platform's, of any Python 3: the library has a plain C ABI."""
        return "py3", "none", super().get_tag()[2]


class Compiled(Distribution):
    def has_ext_modules(self) -> bool:
        return True


setup(distclass=Compiled, cmdclass={"build": Build, "build_kernels": BuildKernels, "bdist_wheel": Wheel})
