"""The one place that knows which devices and dtypes there are."""

import os

import torch

from specexec.errors import WrongUsage

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# By how much two logits of the same path, in passes of different widths, can move against each other: twice the largest
# difference measured (tests/benchmarks/rounding.py); closer candidates may trade places.
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.25, torch.float16: 0.04}
# The same where keys and values are quantised (quantised_rounding.py there): what rounds to another code is a step apart.
QUANTISED = {"int8": {torch.float32: 0.04, torch.bfloat16: 0.6, torch.float16: 0.1},
             "int4": {torch.float32: 0.04, torch.bfloat16: 1.6, torch.float16: 0.5}}
TINY = 50_000_000  # parameters
SMALL = 500_000_000  # parameters; below this fp32 costs little and rounds least


def choose_threads(parameters: int) -> None:
    """One thread for models so small that waking another costs more than it computes (5 M: 4.4 ms a pass instead of 7.6)."""
    if parameters < TINY and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def choose_device(name: str = "auto") -> torch.device:
    """The device called `name`; auto takes cuda, then mps, then cpu. Raises WrongUsage where it is not here."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, found in here.items() if found))
    if not here.get(name.partition(":")[0], False):
        raise WrongUsage(f"this machine has no {name} device.", hint="--device auto")
    return torch.device(name)


def choose_dtype(name: str, parameters: int, stored: torch.dtype) -> torch.dtype:
    """The dtype called `name`; auto computes small models in fp32, others as they are stored."""
    if name != "auto":
        return DTYPES[name]
    return torch.float32 if parameters < SMALL else stored
