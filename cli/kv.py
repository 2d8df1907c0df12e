"""Where a model's keys and values are kept: --kv-place."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from cli import home
from cli.models import Model
from offload.kv_file import KvFile
from offload.kv_host import KvHost
from offload.lane import Device
from offload.plan import DISK, HOST
from offload.store import Store
from specexec.engines.architecture import Architecture
from specexec.engines.torch_cache import kept
from specexec.errors import WrongUsage
from specexec.kernels.hierarchical import GROUP
from specexec.kernels.row_groups import RowGroups
from specexec.kv.backing import KEPT, STEP, MakeBacking
from specexec.kv.dense import DenseCache
from specexec.kv.offloaded_dense import OffloadedDense
from specexec.kv.offloaded_hierarchical_dense import OffloadedHierarchicalDense
from specexec.kv.quantised import BITS

Leave = Callable[[Callable[[], None]], object]  # takes what is to be done at the end


def check_place(model: Model, place: str, device: torch.device) -> None:
    """Raises WrongUsage for a --kv-place that this model's engine does not know. device: where it computes."""
    store = model if isinstance(model, Store) else None
    if place == DISK and (store is None or store.layout != "tile16" or device.type != "cpu"):
        raise WrongUsage("--kv-place disk needs a converted model, on the CPU's kernels.",
                         hint=f"--kv-place auto, or specexec convert {model.path} --layout tile16")
    if place == HOST and device.type != "cpu" and store is None:
        raise WrongUsage("--kv-place host needs a converted model, where there is a device.",
                         hint=f"--kv-place auto, or specexec convert {model.path}")


def away(store: Store, place: str, leave: Leave) -> MakeBacking | None:
    """Keys and values on the disk that the weights are on, where its folder may be written; None: in memory."""
    if place != DISK:
        return None
    beside, other = store.path.resolve().parent, home.machine().parent
    if os.access(beside, os.W_OK):
        return partial(_of_file, leave, beside)
    other.mkdir(parents=True, exist_ok=True)
    return partial(_of_file, leave, other)


def _of_file(leave: Leave, folder: Path, layers: int, strips: int, rows: int, row: int) -> KvFile:
    backing = KvFile(folder, layers, strips, rows, row)
    leave(backing.close)
    return backing


def of_device(
    config: Architecture, kv: str, context: int, tree: int, place: str, device: Device, dtype: torch.dtype, leave: Leave,
) -> DenseCache:
    """All of it is taken at once. kv: its format. tree: rows of it besides the context."""
    if place != HOST:
        return kept(config, kv, device.place, context, tree)
    layers, heads, dim = config.num_hidden_layers, config.num_key_value_heads, config.head_dim
    if kv in BITS:
        record = RowGroups.record(heads, dim, BITS[kv])
        backing = _of_host(leave, device, layers, 1, max(1, context // GROUP), record)
        return OffloadedHierarchicalDense(layers, heads, dim, BITS[kv], device.place, backing, tree)
    backing = _of_host(leave, device, layers, 2 * heads, context + tree, dim * dtype.itemsize)
    return OffloadedDense(layers, backing, KEPT + STEP + tree)


def _of_host(leave: Leave, device: Device, layers: int, strips: int, rows: int, row: int) -> KvHost:
    backing = KvHost(device, layers, strips, rows, row)
    leave(backing.close)
    return backing
