"""Milliseconds of every CPU kernel, as shares of what the machine can do, beside what libraries offer:

    python -m tests.benchmarks.kernels [--only linear attention gathered hierarchical rows model]

Weights and caches are gone through in so many copies that each comes from memory. Arms take turns in one process; rounds in
which other processes computed are done again. bitsandbytes' products run where it is installed (PYTHONPATH=. and its Python),
the prototype's where ../shared/probe is. Tables in markdown, then what falls short; one line of JSON comes last.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from specexec.kernels import library
from tests.benchmarks import kernel_attention, kernel_gathered, kernel_hierarchical, kernel_linear, kernel_rows
from tests.benchmarks.machine import Machine
from tests.benchmarks.timing import alternate

Part = Callable[[Machine, argparse.Namespace], list[Any]]


def linears(machine: Machine, chosen: argparse.Namespace) -> list[Any]:
    every = []
    for (rows, columns), counts in kernel_linear.SHAPES.items():
        if chosen.shapes and f"{rows}x{columns}" not in chosen.shapes:
            continue
        wanted = [n for n in counts if not chosen.n or n in chosen.n]
        cells, notes = kernel_linear.measure(machine, rows, columns, wanted, chosen.rounds)
        print("\n" + kernel_linear.tables(cells, machine.read), *(f"\n{note}" for note in notes), flush=True)
        every += cells
    return every


def attentions(machine: Machine, chosen: argparse.Namespace) -> list[Any]:
    counts = [n for n in kernel_attention.COUNTS if not chosen.n or n in chosen.n]
    keys = [k for k in kernel_attention.KEYS if not chosen.keys or k in chosen.keys]
    cells = kernel_attention.measure(machine, keys, counts, chosen.rounds)
    print("\n" + kernel_attention.table(cells), flush=True)
    return cells


def gathered(machine: Machine, chosen: argparse.Namespace) -> list[Any]:
    counts = [n for n in kernel_gathered.COUNTS if not chosen.n or n in chosen.n]
    cells = kernel_gathered.measure(machine, counts, chosen.rounds)
    print("\n" + kernel_gathered.table(cells), flush=True)
    return cells


def hierarchical(machine: Machine, chosen: argparse.Namespace) -> list[Any]:
    counts = [n for n in kernel_hierarchical.COUNTS if not chosen.n or n in chosen.n]
    cells = kernel_hierarchical.measure(machine, counts, chosen.rounds)
    print("\n" + kernel_hierarchical.table(cells), flush=True)
    return cells


def all_rows(machine: Machine, chosen: argparse.Namespace) -> list[Any]:
    cells = kernel_rows.measure(machine, kernel_rows.COUNTS, chosen.rounds)
    print("\n" + kernel_rows.table(cells), flush=True)
    return cells


def model(machine: Machine, chosen: argparse.Namespace) -> list[Any]:
    try:
        from tests.benchmarks import kernel_model
    except ImportError as error:
        print(f"\nabsent: model: {error}")
        return []
    cells = kernel_model.measure(machine, chosen.rounds)
    print("\n" + kernel_model.show(cells), flush=True)
    return cells


PARTS: dict[str, Part] = {"model": model, "rows": all_rows, "attention": attentions, "gathered": gathered,
                          "hierarchical": hierarchical, "linear": linears}


def limits(machine: Machine, rounds: int) -> dict[str, float]:
    timed = alternate(machine.arms(*machine.amount), rounds)
    rates = machine.rates(timed.seconds)
    named = {"read": "GB/s read by {} threads", "bytes": "GOP/s of bytes", "bf16": "GF/s bf16", "fp32": "GF/s fp32"}
    said = [f"{rate / 1e9:,.1f} " + named[name.split()[0]].format(name.split()[-1]) for name, rate in rates.items()]
    print("the machine: " + ", ".join(said) + f"; others use {timed.elsewhere:.2f} cores", flush=True)
    return rates


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--shapes", nargs="+", help="of linear, such as 4096x4096")
    parser.add_argument("--keys", type=int, nargs="+", help="of attention")
    parser.add_argument("--n", type=int, nargs="+", help="tokens of linear and attention")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def main() -> None:
    chosen = options()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    if why := library.why_not():
        raise SystemExit(why)
    began, machine = time.perf_counter(), Machine()
    print(f"{platform.processor() or platform.machine()}, {library.instruction_set()}, torch {torch.__version__}, "
          f"{chosen.threads} threads")
    rates = limits(machine, chosen.rounds)
    found = {name: PARTS[name](machine, chosen) for name in chosen.only}
    short = [line for cells in found.values() for c in cells if hasattr(c, "complaints") for line in c.complaints()]
    print("\nfalls short:", *(short or ["nothing"]), sep="\n- ")
    print(f"{time.perf_counter() - began:.0f} s")
    print(json.dumps({"rates": rates, "short": short} | {name: [asdict(c) for c in cells] for name, cells in found.items()}))


if __name__ == "__main__":
    main()
