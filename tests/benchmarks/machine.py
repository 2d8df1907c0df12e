"""What this machine can do at most, measured beside what is timed: reads of memory, products of bytes, torch's own products."""

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from ctypes import c_int, c_int64, c_size_t, c_void_p
from pathlib import Path

import torch
from torch.nn import functional

HERE = Path(__file__).parent
PROBE = HERE.parents[2] / "shared" / "probe" / "kern.cpp"
READ = 5 * 2**28  # bytes: several times any cache
GEMM = 4096, 512  # width, tokens
PRODUCTS = 1 << 20
LINE = 64


def compiled(source: str) -> ctypes.CDLL:
    """A library of C++ for this very CPU. Raises CalledProcessError, or FileNotFoundError without a compiler."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "made.so")
        command = [shutil.which("g++") or "c++", "-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC", "-w"]
        subprocess.run([*command, "-x", "c++", "-", "-o", str(out)], input=source.encode(), check=True)
        return ctypes.CDLL(str(out))


def huge(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Written to once, so that its pages are there."""
    return torch.empty(shape, dtype=dtype).fill_(1)


class Machine:
    """Arms, each with how much it does: read (bytes), and products (operations, two a product)."""

    def __init__(self) -> None:
        library = compiled((HERE / "machine.cpp").read_text(encoding="utf-8"))
        self._read, self._products = library.read_all, library.byte_products
        self._read.argtypes, self._read.restype = (c_void_p, c_size_t, c_int), ctypes.c_uint64
        self._products.argtypes, self._products.restype = (c_int64, c_int), c_int64
        self._block = huge((READ // 8,), torch.int64)
        self._dense = {dtype: (torch.randn(GEMM[1], GEMM[0]).to(dtype), torch.randn(GEMM[0], GEMM[0]).to(dtype))
                       for dtype in (torch.bfloat16, torch.float32)}
        self.threads = torch.get_num_threads()
        self.amount = {"read 1": READ, f"read {self.threads}": READ, "bytes": 2 * self._products(PRODUCTS, self.threads),
                       "bf16": 2 * GEMM[1] * GEMM[0] ** 2, "fp32": 2 * GEMM[1] * GEMM[0] ** 2}

    @property
    def read(self) -> str:
        """The arm of all threads."""
        return f"read {self.threads}"

    def arms(self, *names: str) -> dict[str, Callable[[], object]]:
        """Of `amount`'s names, those that this machine has."""
        every: dict[str, Callable[[], object]] = {
            name: lambda threads=threads: self._read(self._block.data_ptr(), READ, threads)
            for name, threads in (("read 1", 1), (self.read, self.threads))}
        every["bytes"] = lambda: self._products(PRODUCTS, self.threads)
        every |= {name: lambda dtype=dtype: functional.linear(*self._dense[dtype])
                  for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32))}
        return {name: every[name] for name in names if self.amount[name]}

    def rates(self, seconds: dict[str, float]) -> dict[str, float]:
        """Bytes or operations a second of those arms that were timed."""
        return {name: amount / seconds[name] for name, amount in self.amount.items() if name in seconds}


def prototype() -> ctypes.CDLL | None:
    """The probe's kernels, without its bf16 ones where the CPU has no such products; None where there is no probe."""
    if not PROBE.exists():
        return None
    text = PROBE.read_text(encoding="utf-8")
    text = text.replace("// ---- 1.", "#ifdef __AVX512BF16__\n// ---- 1.").replace("// ---- 2.", "#endif\n// ---- 2.")
    before, mark, after = text.partition("// ---- 3.")
    comment, end, bf16 = after.partition("\n}\n")  # closes the extern "C" that the kernel before it needs
    try:
        return compiled(f"{before}{mark}{comment}{end}#ifdef __AVX512BF16__\n{bf16}\n#endif\n")
    except subprocess.CalledProcessError:
        return None
