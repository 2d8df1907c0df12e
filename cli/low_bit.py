"""`--draft self:3bit`: a model drafts for itself with a low-bit copy of the layers that stream."""

from collections.abc import Sequence

from cli.ledger import SELF
from cli.models import Model
from offload.low_bit_source import LowBit
from offload.manifest import copy_name
from offload.store import Store
from offload.stream import Streamer
from specexec.engines.tree_engine import TreeEngine
from specexec.engines.weights_engine import WeightsEngine
from specexec.errors import WrongUsage

KIND = "3bit"
COPIED = f"{SELF}:{KIND}"  # the draft's name


def check(names: Sequence[str]) -> None:
    """Raises WrongUsage for another copy than there is, or two ways for a model to draft for itself."""
    for name in names:
        if name.startswith(f"{SELF}:") and name != COPIED:
            raise WrongUsage(f"--draft {name}: no model has such a copy of itself.", hint=f"--draft {COPIED}")
    if SELF in names and COPIED in names:
        raise WrongUsage(f"--draft {SELF} contradicts --draft {COPIED}.", hint="one of the two")


def check_layout(name: str, layout: str | None) -> None:
    """Raises WrongUsage for weights that are not read by the kernels that read a copy."""
    if layout != "tile16":
        raise WrongUsage(f"--draft {COPIED} is for the CPU's kernels; {name} is in {layout or 'bf16'}.",
                         hint=f"specexec convert {name} --layout tile16 --copy {KIND}" if layout else "--draft lookup")


def copy_bytes(name: str, model: Model) -> int:
    """Of a layer's copy, at the most. name: what the person calls it. Raises WrongUsage where there is none."""
    if isinstance(model, Store):
        check_layout(name, model.layout)
    if isinstance(model, Store) and model.manifest.identity.copy == KIND:
        return max(model.entry(copy_name(index)).nbytes for index in range(len(model.layers)))
    raise WrongUsage(f"--draft {COPIED} needs a copy of the layers; {name} has none.",
                     hint=f"specexec convert {name} --copy {KIND}")


def weights(model: Model, target: TreeEngine) -> LowBit:
    """What the model drafts with."""
    assert isinstance(model, Store)
    assert isinstance(target, WeightsEngine)
    assert isinstance(target.source, Streamer)
    return LowBit(model, target.source)
