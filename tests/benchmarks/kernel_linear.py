"""Our products of quantised matrices beside other people's: arms of benchmark kernels."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from specexec.formats import KINDS, Packed, shapes
from specexec.kernels import linear, table
from tests.benchmarks.machine import Machine
from tests.benchmarks.peers import Arm, Copies, clones, peers
from tests.benchmarks.timing import alternate

OURS = {f"{kind} {bits}": (kind, bits) for kind in KINDS for bits in (8, 16)}
ALL_N = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
SHAPES = {(4096, 4096): ALL_N, (8192, 8192): ALL_N, (28672, 8192): (1, 8)}  # rows, columns: tokens
AS_PROTOTYPE = 0.85  # of its rate, the least that counts as reaching it: its scales and its activations are simpler


@dataclass(frozen=True)
class Cell:
    """Seconds a call of every arm; bytes: of one weight, by arm. ours include no quantising of activations."""

    rows: int
    columns: int
    n: int
    seconds: dict[str, float]
    bytes: dict[str, int]
    rates: dict[str, float]  # what the machine can do, measured beside them
    elsewhere: float

    @property
    def operations(self) -> int:
        return 2 * self.rows * self.columns * self.n

    @property
    def library(self) -> str:
        """The fastest that is neither ours nor the prototype."""
        others = [name for name in self.seconds if name.startswith(("bnb", "int4pack", "torch"))]
        return min(others, key=self.seconds.__getitem__)

    def whole(self, name: str) -> float:
        """With the quantising of its activations."""
        return self.seconds[name] + self.seconds[f"quantise {name.split()[1]}"]

    def complaints(self) -> list[str]:
        cell = f"linear {self.rows}x{self.columns} n={self.n}"
        found = []
        if "prototype" in self.seconds and (rate := self.seconds["prototype"] / self.seconds["nf4 8"]) < AS_PROTOTYPE:
            found.append(f"{cell}: nf4 8 runs at {rate:.2f} of the prototype")
        for name in self.seconds:
            if name.startswith("bnb"):
                found += [f"{cell}: {ours} runs at {self.seconds[name] / self.whole(ours):.2f} of {name}"
                          for ours in ("nf4 8", "nf4 16") if self.whole(ours) > self.seconds[name]]
        return found


def packed(kind: str, rows: int, columns: int) -> Packed:
    """Random codes and a scale that keeps products small."""
    codes, scales = shapes(kind, "tile16", rows, columns)
    low, high = (0, 256) if KINDS[kind] == torch.uint8 else (-127, 128)
    return Packed(kind, "tile16", rows, columns, torch.randint(low, high, codes, dtype=KINDS[kind]),
                  torch.full(scales, 0.01, dtype=torch.float16))


def again(weight: Packed) -> Packed:
    return Packed(weight.kind, weight.layout, weight.rows, weight.columns, *clones(weight.codes, weight.scales))


def ours(weights: Copies[Packed], x: torch.Tensor, bits: int) -> Arm:
    activations = linear.quantise(x, bits)
    struct, out = activations.struct(), torch.empty(len(x), weights.items[0].rows)
    made = {id(weight): (table.Matrix * 1)(linear.matrix(weight, out)) for weight in weights.items}
    kernel = table.needed().linear

    def run() -> object:
        kernel(made[id(weights.next())], 1, ctypes.byref(struct))
        return activations, out

    return run


def quantise(x: torch.Tensor, bits: int) -> Arm:
    to = linear.Activations.empty(*x.shape, bits)
    struct, kernel = to.struct(), table.needed().quantise

    def run() -> object:
        kernel(x.data_ptr(), x.shape[1], ctypes.byref(struct))
        return to

    return run


def measure(machine: Machine, rows: int, columns: int, counts: Sequence[int], rounds: int) -> tuple[list[Cell], list[str]]:
    """(a cell for each n, what is to be said of other people's)."""
    mine = {kind: Copies(first := packed(kind, rows, columns), first.nbytes, again) for kind in KINDS}
    found, notes = peers(rows, columns)
    nbytes = {name: mine[kind].nbytes for name, (kind, _) in OURS.items()}
    nbytes |= {name: peer.weights.nbytes for name, peer in found.items()}
    cells = []
    for n in counts:
        x = torch.randn(n, columns)
        arms = {name: ours(mine[kind], x, bits) for name, (kind, bits) in OURS.items()}
        arms |= {f"quantise {bits}": quantise(x, bits) for bits in (8, 16)}
        arms |= {name: peer.arm(x) for name, peer in found.items()}
        timed = alternate(arms | machine.arms("read 1", machine.read, "bytes"), rounds)
        rates = machine.rates(timed.seconds)
        cells.append(Cell(rows, columns, n, {name: timed.seconds[name] for name in arms}, nbytes, rates, timed.elsewhere))
        print(f"  {rows}x{columns} n={n} elsewhere {timed.elsewhere:.2f}", flush=True)
    return cells, notes


def tables(cells: Sequence[Cell], read: str) -> str:
    """Milliseconds of all arms; then, of ours, what they achieve."""
    names = list(cells[0].seconds)
    lines = [f"linear {cells[0].rows}x{cells[0].columns}, ms", "",
             f"| n | {' | '.join(names)} | best library | others |", "|---:|" + "---:|" * len(names) + "---|---:|"]
    for c in cells:
        times = " | ".join(f"{1e3 * c.seconds[name]:.2f}" for name in names)
        best = f"{c.library}: nf4 8 is {c.seconds[c.library] / c.whole('nf4 8'):.2f}x"
        lines.append(f"| {c.n} | {times} | {best} | {c.elsewhere:.2f} |")
    lines += ["", "| n | kernel | GB/s | of reads | GOP/s | of byte products | against the prototype |",
              "|---:|---|" + "---:|" * 5]
    for c in cells:
        lines += [_rates(c, name, read) for name in OURS]
    return "\n".join(lines)


def _rates(c: Cell, name: str, read: str) -> str:
    speed, products = c.bytes[name] / c.seconds[name], c.operations / c.seconds[name]
    peak = c.rates.get("bytes")
    of_peak = f"{products / peak:.0%}" if peak else ""
    against = f"{c.seconds['prototype'] / c.seconds[name]:.2f}x" if "prototype" in c.seconds else ""
    return (f"| {c.n} | {name} | {speed / 1e9:.1f} | {speed / c.rates[read]:.0%} | {products / 1e9:,.0f} | {of_peak} "
            f"| {against} |")
