"""kernels.h for Python: its structs, and the functions of the chosen instruction set."""

import ctypes
import functools
from collections.abc import Callable
from ctypes import POINTER, Structure, c_double, c_float, c_int32, c_int64, c_uint64, c_void_p
from typing import Any, ClassVar

import torch

from specexec.kernels.library import load


class Matrix(Structure):
    _fields_: ClassVar = [
        ("codes", c_void_p), ("scales", c_void_p), ("bias", c_void_p), ("out", c_void_p),
        ("rows", c_int64), ("stride", c_int64), ("kind", c_int32), ("adds", c_int32),
    ]


class Activations(Structure):
    _fields_: ClassVar = [
        ("q", c_void_p), ("scale", c_void_p), ("sum", c_void_p), ("fine", c_void_p),
        ("n", c_int64), ("groups", c_int64), ("bits", c_int32), ("threads", c_int32),
    ]


class Gathered(Structure):
    _fields_: ClassVar = [
        ("keys", c_void_p), ("values", c_void_p), ("eights", c_void_p), ("capacity", c_int64), ("blocks", c_int64),
        ("position", c_int64),
    ]


class Quantised(Structure):
    _fields_: ClassVar = [
        ("upper", c_void_p), ("lower", c_void_p), ("scales", c_void_p),
        ("head", c_int64), ("record", c_int64), ("scales_head", c_int64), ("scales_record", c_int64),
        ("first", c_int64), ("groups", c_int64), ("head_dim", c_int64), ("bits", c_int32), ("follows", c_int32),
        ("tiles", c_void_p), ("chosen", c_int64),
    ]


class Cache(Structure):
    _fields_: ClassVar = [
        ("keys", c_void_p), ("values", c_void_p), ("capacity", c_int64), ("kv_heads", c_int64), ("dim", c_int64),
        ("position", c_int64), ("gathered", POINTER(Gathered)), ("quantised", POINTER(Quantised)),
    ]


class Pass(Structure):
    _fields_: ClassVar = [
        ("parents", c_void_p), ("first", c_void_p),
        ("committed", c_int64), ("t", c_int64), ("n", c_int64), ("threads", c_int32),
    ]


class Attention(Structure):
    _fields_: ClassVar = [
        ("q", c_void_p), ("out", c_void_p), ("log_sum_exp", c_void_p), ("heads", c_int64), ("out_dim", c_int64),
    ]


class Rope(Structure):
    _fields_: ClassVar = [
        ("qkv", c_void_p), ("angles", c_void_p), ("q_norm", c_void_p), ("k_norm", c_void_p), ("q", c_void_p),
        ("n", c_int64), ("heads", c_int64), ("head_dim", c_int64), ("row", c_int64),
        ("eps", c_float), ("scaling", c_float), ("threads", c_int32),
    ]


class Layer(Structure):
    _fields_: ClassVar = [
        ("x", c_void_p), ("input_norm", c_void_p), ("post_norm", c_void_p),
        ("qkv", POINTER(Matrix)), ("o", POINTER(Matrix)), ("gate_up", POINTER(Matrix)), ("down", POINTER(Matrix)),
        ("rope", POINTER(Rope)), ("attention", POINTER(Attention)),
        ("wide", POINTER(Activations)), ("mixed", POINTER(Activations)), ("fed", POINTER(Activations)),
        ("width", c_int64), ("ffn", c_int64), ("eps", c_float),
    ]


class Logits(Structure):
    _fields_: ClassVar = [
        ("x", c_void_p), ("noise", POINTER(c_void_p)), ("ids", c_void_p), ("values", c_void_p), ("log_sum_exp", c_void_p),
        ("n", c_int64), ("columns", c_int64), ("stride", c_int64), ("k", c_int64),
        ("a", c_float), ("b", c_float), ("threads", c_int32),
    ]


class Guesses(Structure):
    _fields_: ClassVar = [
        ("x", c_void_p), ("noise", POINTER(c_void_p)), ("starts", c_void_p), ("at", c_void_p), ("off", c_void_p),
        ("kept", c_void_p), ("ids", c_void_p), ("log_q", c_void_p), ("g", c_void_p), ("score", c_void_p),
        ("own", c_void_p),
        ("n", c_int64), ("columns", c_int64), ("stride", c_int64), ("k", c_int64), ("keeps", c_int64),
        ("least", c_double), ("loud", c_double), ("a", c_float), ("b", c_float), ("temperature", c_float), ("threads", c_int32),
    ]


class Noise(Structure):
    _fields_: ClassVar = [
        ("seed", c_uint64), ("answer", c_uint64), ("index", c_uint64), ("out", c_void_p), ("n", c_int64), ("threads", c_int32),
    ]


# in the order of struct Kernels, after `tokens`
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "quantise": (c_void_p, c_int64, POINTER(Activations)),
    "linear": (POINTER(Matrix), c_int64, POINTER(Activations)),
    "norm": (c_void_p, c_void_p, c_int64, c_int64, c_float, c_void_p, c_int32),
    "norm_quantise": (c_void_p, c_void_p, c_int64, c_float, POINTER(Activations)),
    "silu_quantise": (c_void_p, c_int64, POINTER(Activations)),
    "rope": (POINTER(Rope), POINTER(Cache)),
    "attend": (POINTER(Attention), POINTER(Cache), POINTER(Pass)),
    "move": (POINTER(Cache), c_int64, c_int64, c_void_p, c_int64),
    "compress": (POINTER(Cache), c_int64, c_int64, c_int64, c_int32),
    "layer": (POINTER(Layer), POINTER(Cache), POINTER(Pass)),
    "read": (POINTER(Logits),),
    "noise": (POINTER(Noise),),
    "guess": (POINTER(Guesses),),
}


class _Raw(Structure):
    _fields_: ClassVar = [("tokens", c_int64), *((name, c_void_p) for name in SIGNATURES)]


class Table:
    """The kernels of one instruction set. tokens: how many lie in a tile of quantised activations."""

    quantise: Callable[..., None]
    linear: Callable[..., None]
    norm: Callable[..., None]
    norm_quantise: Callable[..., None]
    silu_quantise: Callable[..., None]
    rope: Callable[..., None]
    attend: Callable[..., None]
    move: Callable[..., None]
    compress: Callable[..., None]
    layer: Callable[..., None]
    read: Callable[..., None]
    noise: Callable[..., None]
    guess: Callable[..., None]

    def __init__(self, raw: _Raw) -> None:
        self.tokens: int = raw.tokens
        for name, arguments in SIGNATURES.items():
            setattr(self, name, ctypes.CFUNCTYPE(None, *arguments)(getattr(raw, name)))


@functools.cache
def table() -> Table | None:
    """The chosen kernels; None where there is no library."""
    library = load()
    if library is None:
        return None
    library.specexec_table.restype = POINTER(_Raw)
    return Table(library.specexec_table().contents)


def needed() -> Table:
    """The chosen kernels. Raises RuntimeError where there is no library: callers ask first."""
    found = table()
    if found is None:
        raise RuntimeError("there are no compiled kernels")
    return found


def threads() -> int:
    return torch.get_num_threads()
