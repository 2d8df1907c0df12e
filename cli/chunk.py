"""How much of a prompt a pass over a store reads, by what is known of this machine."""

from dataclasses import replace

import torch

from cli import home
from cli.forecast import arithmetic, sample
from cli.ledger import sizes
from cli.subject import of_store
from offload.chunk import chunk, typical
from offload.machine import Machine, measure
from offload.measured import Known
from offload.plan import Demand
from offload.store import Store


def prompt_chunk(store: Store, ram: int, wanted: Demand, tree: int, bits: int) -> int:
    """Tokens. bits: of the activations. Nothing is measured: what `plan` or `bench` found is used, or typical rates."""
    return chunk(sizes(store), _machine(store, ram, bits), wanted, tree) if store.layout == "tile16" else tree


def _machine(store: Store, ram: int, bits: int) -> Machine:
    subject = of_store(store.path.name, store)
    try:
        found = measure(Known(home.machine()), sample(subject), arithmetic(subject, bits))
    except LookupError:
        return typical(ram, torch.get_num_threads())
    return replace(found, ram=ram)
