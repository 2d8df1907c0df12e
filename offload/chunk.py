"""How much of a prompt one pass reads: each pass streams the weights again, so as much as makes arithmetic take the longer."""

from dataclasses import replace

from offload.errors import TooLittleMemory
from offload.footprint import Footprint
from offload.machine import Machine
from offload.plan import Demand, plan
from offload.predict import predict

SHARE = 1 / 8  # of memory at the most, for a pass's buffers: they take the place of layers
DISK, PRODUCTS = 2e9, 1.5e11  # bytes a second; weights times tokens a second, of a core: where nobody has measured


def typical(ram: int, cores: int) -> Machine:
    """What a machine is taken for that nobody has measured."""
    return Machine(ram, None, DISK, None, {n: PRODUCTS * cores / n for n in (64, 512)})


def chunk(of: Footprint, machine: Machine, demand: Demand, tree: int) -> int:
    """Tokens of a prompt: `tree` of them, or as many times twice that as it takes until no pass waits for what it streams.

    demand: without them. Its ledger is kept: more tokens take larger buffers.
    """
    tokens = tree
    while not _enough(of, machine, demand, tree, tokens):
        if tokens >= demand.context or not _fits(of, machine, demand, tree, 2 * tokens):
            break
        tokens *= 2
    return tokens


def _enough(of: Footprint, machine: Machine, demand: Demand, tree: int, tokens: int) -> bool:
    placed = plan(of, machine.ram, replace(demand, prompt=tokens + tree))
    found = predict(of, placed, machine, tokens)
    return found.arithmetic >= found.stream


def _fits(of: Footprint, machine: Machine, demand: Demand, tree: int, tokens: int) -> bool:
    try:
        plan(of, machine.ram, replace(demand, prompt=tokens + tree))
    except TooLittleMemory:
        return False
    return of.work_token * (tokens + tree) <= SHARE * machine.ram
