"""A llama.cpp context: its KV cache and its passes."""

import ctypes
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch

from specexec.engines.llamacpp import Model, failed, library
from specexec.errors import Interrupted
from specexec.kv.sequences import MOST

SLOW = 0.05  # seconds of a pass from which on Ctrl-C is heard within it: asking Python costs 1 us an operation of the model
ABORTED = 2  # llama_decode's word for it
BF16 = 30  # ggml.h's number of the type, which llama-cpp-python does not name


@dataclass(frozen=True)
class Room:
    """cells: of the KV cache, of cell_bytes each. rows: of a pass, at the most; read: those whose logits are wanted.

    wide: keys and values are fp32. on_gpu: weights are.
    """

    cells: int
    cell_bytes: int
    rows: int
    read: int
    threads: int
    wide: bool
    on_gpu: bool = False


class Context:
    """Implements Memory (kv/sequences.py). stop: asked in slow passes; True raises Interrupted."""

    def __init__(self, model: Model, room: Room, stop: Callable[[], bool]) -> None:
        llama = self._llama = library()
        self.model, self.room, self.stop, self.nbytes = model, room, stop, room.cells * room.cell_bytes
        self.pointer = llama.llama_init_from_model(model.pointer, _parameters(llama, room))
        if not self.pointer:
            raise failed(f"llama.cpp has no room for a context of {room.cells:,}", "a smaller --ctx-size")
        weakref.finalize(self, llama.llama_free, self.pointer)
        self._memory = llama.llama_get_memory(self.pointer)
        self._asking, self._silent = llama.ggml_abort_callback(lambda _: stop()), llama.ggml_abort_callback()
        self._asks = False
        self._seconds = 0.0  # of the last pass, a token

    def copy(self, source: int, sequence: int, start: int, end: int) -> None:
        self._llama.llama_memory_seq_cp(self._memory, source, sequence, start, end)

    def cut(self, sequence: int, start: int) -> None:
        self._llama.llama_memory_seq_rm(self._memory, sequence, start, -1)

    def move(self, sequence: int, start: int) -> None:
        llama = self._llama
        size = llama.llama_state_seq_get_size(self.pointer, sequence)
        kept = (ctypes.c_uint8 * size)()
        llama.llama_state_seq_get_data(self.pointer, kept, size, sequence)
        llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        if llama.llama_state_seq_set_data(self.pointer, kept, size, sequence) != size:
            raise failed("llama.cpp has lost rows of its KV cache", "the same command again")

    def evaluate(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[Sequence[int]], read: int
    ) -> torch.Tensor:
        """fp32[read, V]: logits of the last `read` tokens, valid until the next call. sequences: of each token.

        Raises Interrupted, or Failed; the cells of the tokens are then free or to be cut.
        """
        batch = _Batch(self._llama, tokens, positions, sequences, read)
        self._ask(self._seconds * len(tokens) > SLOW or self._seconds == 0)
        if self.stop():
            raise Interrupted
        began = time.perf_counter()
        code = self._llama.llama_decode(self.pointer, batch.struct)
        if code == ABORTED:
            raise Interrupted
        if code:
            raise failed(f"llama.cpp failed at {len(tokens):,} tokens, code {code}", "a smaller --budget or --ctx-size")
        found = self._logits(read)
        self._seconds = (time.perf_counter() - began) / len(tokens)
        return found

    def _ask(self, within: bool) -> None:
        """Whether `stop` is asked within the next pass."""
        if within != self._asks:
            self._llama.llama_set_abort_callback(self.pointer, self._asking if within else self._silent, None)
            self._asks = within

    def _logits(self, rows: int) -> torch.Tensor:
        if not rows:
            self._llama.llama_synchronize(self.pointer)
            return torch.empty(0, self.model.vocabulary)
        pointer = self._llama.llama_get_logits(self.pointer)
        return torch.from_numpy(np.ctypeslib.as_array(pointer, (rows, self.model.vocabulary)))


def _parameters(llama: Any, room: Room) -> Any:
    found = llama.llama_context_default_params()
    found.n_ctx, found.n_seq_max, found.kv_unified = room.cells, MOST, True
    found.swa_full, found.no_perf = True, True  # rows that slid out of a window are wanted again when a tree is dropped
    found.n_batch = found.n_ubatch = room.rows
    found.n_outputs_max = room.read
    found.n_threads = found.n_threads_batch = room.threads
    if room.wide:
        found.type_k = found.type_v = llama.GGML_TYPE_F32
        found.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it rounds to fp16
    elif not room.on_gpu:
        # Of two types flash attention is summed key by key, whatever the pass; of one type a single row is shared out among
        # threads, and 64 rows are done in tiles: both round otherwise (tests/benchmarks/llamacpp_rounding.py).
        found.type_k, found.type_v = llama.GGML_TYPE_F16, BF16
        found.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
    return found


class _Batch:
    """struct: llama.cpp's batch, which points into arrays that are kept here."""

    def __init__(
        self, llama: Any, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[Sequence[int]], read: int
    ) -> None:
        n = len(tokens)
        counts = np.fromiter(map(len, sequences), np.int32, n)
        ids = np.fromiter(chain.from_iterable(sequences), np.int32, int(counts.sum()))
        starts = (ids.ctypes.data + 4 * (np.cumsum(counts) - counts)).astype(np.uintp)
        wanted = np.zeros(n, np.int8)
        wanted[n - read :] = 1
        self.arrays = np.array(tokens, np.int32), np.array(positions, np.int32), counts, starts, wanted, ids
        token, position, count, start, want = (array.ctypes.data for array in self.arrays[:5])
        kinds = dict(llama.llama_batch._fields_)
        self.struct = llama.llama_batch(
            n, ctypes.cast(token, kinds["token"]), None, ctypes.cast(position, kinds["pos"]),
            ctypes.cast(count, kinds["n_seq_id"]), ctypes.cast(start, kinds["seq_id"]), ctypes.cast(want, kinds["logits"]))
