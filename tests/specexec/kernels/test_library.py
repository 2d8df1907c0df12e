"""Which kernels answer: SPECEXEC_KERNELS, the CPU, and libraries that must not be taken for ours."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from specexec.errors import WrongUsage
from specexec.kernels import library, sources

Build = Callable[..., None]
REPORT = """
import json
from specexec.kernels import library
loaded = library.load() is not None
maps = [line.split()[-1] for line in open("/proc/self/maps")] if __import__("sys").platform == "linux" else []
print(json.dumps([loaded, library.instruction_set(), library.why_not(), sorted({m for m in maps if "libgomp" in m})]))
"""
FAKE = """
extern "C" int specexec_abi() {{ return {abi}; }}
extern "C" const char *specexec_version() {{ return "{version}"; }}
extern "C" const char *specexec_chosen() {{ return "portable"; }}
extern "C" const char *specexec_available() {{ return "portable"; }}
extern "C" int specexec_choose(const char *) {{ return {refused}; }}
"""


def sets() -> list[str]:
    """What this CPU runs, best first."""
    found = library.load()
    return found.specexec_available().decode().split(",") if found else []


def report(kernels: str) -> tuple[bool, str, str | None, list[str]]:
    ran = subprocess.run([sys.executable, "-c", REPORT], env={**os.environ, "SPECEXEC_KERNELS": kernels}, check=True,
                         stdout=subprocess.PIPE, text=True)
    loaded, name, reason, openmp = json.loads(ran.stdout)
    return loaded, name, reason, openmp


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """choose("avx2"): the next load is the first, under this SPECEXEC_KERNELS."""

    def choose(kernels: str) -> None:
        monkeypatch.setenv("SPECEXEC_KERNELS", kernels)
        library._loaded.cache_clear()

    choose("")
    yield choose
    monkeypatch.undo()
    library._loaded.cache_clear()
    library.load()  # one library serves the whole process: it is to choose as before


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choose: Callable[[str], None]) -> Build:
    """build(version=, refused=, abi=): a library of five functions in place of ours."""

    def build(version: str, refused: int = 0, abi: int = library.ABI) -> None:
        monkeypatch.setattr(sources, "LIBRARY", tmp_path / "libfake.so")
        command = [*os.environ.get("CXX", "c++").split(), "-shared", "-fPIC", "-x", "c++", "-", "-o", str(sources.LIBRARY)]
        subprocess.run(command, input=FAKE.format(version=version, refused=refused, abi=abi), text=True, check=True)

    return build


def test_this_tree_has_its_library(choose: Callable[[str], None]) -> None:
    choose("auto")
    assert library.load() is not None, library.why_not()
    assert library.why_not() is None
    assert library.instruction_set() == sets()[0]
    assert sets()[-1] == "portable"


@pytest.mark.parametrize("kernels", sets())
def test_an_instruction_set_by_name_and_one_openmp(kernels: str) -> None:
    loaded, name, reason, openmp = report(kernels)
    assert (loaded, name, reason) == (True, kernels, None)
    assert len(openmp) <= 1


def test_the_reference_by_name() -> None:
    loaded, name, reason, _ = report("reference")
    assert (loaded, name) == (False, "reference")
    assert reason is not None
    assert "SPECEXEC_KERNELS=reference" in reason


@pytest.mark.parametrize("kernels", ["sse9", "AVX2", "av", " "])
def test_an_unknown_name_is_refused(kernels: str, choose: Callable[[str], None]) -> None:
    choose(kernels)
    with pytest.raises(WrongUsage, match="no such kernels") as error:
        library.load()
    assert "portable, reference" in error.value.hint
    choose("")
    assert library.load() is not None


def test_kernels_this_cpu_cannot_run_are_refused(build: Build, choose: Callable[[str], None]) -> None:
    build(version=sources.version(), refused=2)
    choose("avx512")
    with pytest.raises(WrongUsage, match="this CPU cannot run") as error:
        library.load()
    assert error.value.hint == "SPECEXEC_KERNELS=auto, or one of portable, reference"


def test_a_library_of_these_sources_is_taken(build: Build) -> None:
    build(version=sources.version())
    assert library.load() is not None


def test_a_library_of_other_sources_is_not(build: Build) -> None:
    build(version="other")
    assert library.load() is None
    assert library.instruction_set() == "reference"
    assert library.why_not() == ("the compiled kernels are not of the present sources (make setup compiles them); "
                                 "the torch reference runs, several times slower")


def test_a_library_of_another_interface_is_not(build: Build) -> None:
    build(version=sources.version(), abi=library.ABI + 1)
    assert library.load() is None
    assert library.why_not() == (f"the compiled kernels have interface {library.ABI + 1}, not {library.ABI}; "
                                 "the torch reference runs, several times slower")


def test_where_no_sources_are_installed_the_library_is_taken(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    build(version="other")
    monkeypatch.setattr(sources, "files", list)
    assert library.load() is not None


@pytest.mark.parametrize(("content", "reason"), [(b"", "do not load"), (b"not a library", "do not load"), (None, "no kernels")])
def test_what_is_no_library_is_none(content: bytes | None, reason: str, tmp_path: Path, choose: Callable[[str], None],
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LIBRARY", tmp_path / "libnone.so")
    if content is not None:
        sources.LIBRARY.write_bytes(content)
    assert library.load() is None
    said = library.why_not()
    assert said is not None
    assert reason in said
    assert "\n" not in said


def test_a_set_asked_for_by_name_is_not_replaced_by_the_reference(tmp_path: Path, choose: Callable[[str], None],
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LIBRARY", tmp_path / "libnone.so")
    choose("portable")
    with pytest.raises(WrongUsage, match="SPECEXEC_KERNELS=portable: no kernels"):
        library.load()


@pytest.mark.skipif(not shutil.which("objdump") or "avx512" not in sets(), reason="reads x86-64 code with objdump")
def test_only_a_set_s_own_functions_use_its_registers() -> None:
    """What the sets share, and what runs while the library loads, must run on every CPU."""
    listing = subprocess.run(["objdump", "-dC", "--no-show-raw-insn", str(sources.LIBRARY)], check=True, text=True,
                             stdout=subprocess.PIPE).stdout
    functions = dict(re.findall(r"^\w+ <(.*)>:\n((?:.+\n)*)", listing, re.MULTILINE))
    assert any("%zmm" in code for code in functions.values())
    for name, code in functions.items():
        assert "%zmm" not in code or "::avx512::" in name, name
        assert "%ymm" not in code or any(f"::{wide}::" in name for wide in ("avx512", "avxvnni", "avx2")), name
