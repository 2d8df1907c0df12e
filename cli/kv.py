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
from specexec.kv.backing import KEPT, STEP, MakeBacking
from specexec.kv.dense import DenseCache
from specexec.kv.offloaded_dense import OffloadedDense

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
    layers, rows = config.num_hidden_layers, context + tree
    backing = KvHost(device, layers, 2 * config.num_key_value_heads, rows, config.head_dim * dtype.itemsize)
    leave(backing.close)
    return OffloadedDense(layers, backing, KEPT + STEP + tree)
