"""The compiled kernels: one library, loaded once. SPECEXEC_KERNELS names an instruction set, or the torch reference."""

import ctypes
import functools
import os
from dataclasses import dataclass

import torch  # noqa: F401  first: by their common soname our library then takes torch's OpenMP instead of a second one

from specexec.errors import WrongUsage
from specexec.kernels import sources

ABI = 10  # of kernels.h, as the Python beside it declares its structs
COST = "the torch reference runs, several times slower"
REFERENCE = "reference"  # no compiled kernels
UNKNOWN = 1  # specexec_choose: no such kernels in this library, rather than this CPU cannot run them


@dataclass(frozen=True)
class Loaded:
    """library: None where the torch reference runs, and reason says why."""

    library: ctypes.CDLL | None
    instruction_set: str
    reason: str | None = None


def load() -> ctypes.CDLL | None:
    """The library, its instruction set chosen; None: the torch reference runs. Raises WrongUsage for SPECEXEC_KERNELS."""
    return _loaded().library


def why_not() -> str | None:
    """One line: why there is no library and what that costs; None where there is one."""
    reason = _loaded().reason
    return reason and f"{reason}; {COST}"


def instruction_set() -> str:
    """avx512, avx2, neon or portable; reference where there is no library."""
    return _loaded().instruction_set


def version() -> str:
    """Which sources the library is of; nothing where there is none."""
    library = load()
    return library.specexec_version().decode() if library else ""


@functools.cache
def _loaded() -> Loaded:
    wanted = os.environ.get("SPECEXEC_KERNELS") or "auto"
    if wanted == REFERENCE:
        return Loaded(None, REFERENCE, "SPECEXEC_KERNELS=reference keeps the compiled kernels out")
    library = _open()
    if isinstance(library, ctypes.CDLL):
        _choose(library, wanted)
        return Loaded(library, library.specexec_chosen().decode())
    if wanted != "auto":
        raise WrongUsage(f"SPECEXEC_KERNELS={wanted}: {library}.", hint="SPECEXEC_KERNELS=auto, or reference")
    return Loaded(None, REFERENCE, library)


def _open() -> ctypes.CDLL | str:
    """The library, or why it is of no use."""
    if not sources.LIBRARY.exists():
        return "no kernels were compiled when specexec was installed"
    try:
        library = ctypes.CDLL(str(sources.LIBRARY), mode=ctypes.RTLD_LOCAL)
        for name in ("specexec_version", "specexec_chosen", "specexec_available"):
            getattr(library, name).restype = ctypes.c_char_p
    except (OSError, AttributeError) as error:
        return f"the compiled kernels do not load: {error}"
    if library.specexec_abi() != ABI:
        return f"the compiled kernels have interface {library.specexec_abi()}, not {ABI}"
    if sources.files() and library.specexec_version().decode() != sources.version():
        return "the compiled kernels are not of the present sources (make setup compiles them)"
    return library


def _choose(library: ctypes.CDLL, wanted: str) -> None:
    refused = library.specexec_choose(wanted.encode())
    if refused:
        what = "no such kernels were compiled" if refused == UNKNOWN else "this CPU cannot run them"
        names = ", ".join([*library.specexec_available().decode().split(","), "reference"])
        raise WrongUsage(f"SPECEXEC_KERNELS={wanted}: {what}.", hint=f"SPECEXEC_KERNELS=auto, or one of {names}")
