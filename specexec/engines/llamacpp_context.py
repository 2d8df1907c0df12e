"""A llama.cpp context: its KV cache and its passes."""

import ctypes
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
        self._memory, self._batch = llama.llama_get_memory(self.pointer), _Batch(llama, room.rows)
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
        batch = self._batch.fill(tokens, positions, sequences, read)
        self._ask(self._seconds * len(tokens) > SLOW or self._seconds == 0)
        if self.stop():
            raise Interrupted
        began = time.perf_counter()
        code = self._llama.llama_decode(self.pointer, batch)
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
        size = rows * self.model.vocabulary
        at = ctypes.addressof(self._llama.llama_get_logits(self.pointer).contents)
        return torch.frombuffer((ctypes.c_float * size).from_address(at), dtype=torch.float32).view(rows, -1)


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
    """struct: llama.cpp's batch of at most `rows` tokens, which points into arrays that are kept here.

    Made once: a pass of a small model takes less time than its objects do.
    """

    def __init__(self, llama: Any, rows: int) -> None:
        self.tokens, self.positions, self.counts = (np.zeros(rows, np.int32) for _ in range(3))
        self.starts, self.wanted = np.zeros(rows, np.uintp), np.zeros(rows, np.int8)
        kinds = dict(llama.llama_batch._fields_)
        token, position, count, start, want = (
            ctypes.cast(array.ctypes.data, kinds[field]) for array, field in (
                (self.tokens, "token"), (self.positions, "pos"), (self.counts, "n_seq_id"), (self.starts, "seq_id"),
                (self.wanted, "logits")))
        self.struct = llama.llama_batch(0, token, None, position, count, start, want)

    def fill(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[Sequence[int]], read: int
    ) -> Any:
        """The struct of these tokens, the last `read` of which are to have logits."""
        n = self.struct.n_tokens = len(tokens)
        self.tokens[:n], self.positions[:n] = tokens, positions
        self.counts[:n] = [len(those) for those in sequences]
        self._ids = np.array([one for those in sequences for one in those], np.int32)
        self.starts[:n] = self._ids.ctypes.data + 4 * (np.cumsum(self.counts[:n]) - self.counts[:n])
        self.wanted[: n - read], self.wanted[n - read : n] = 0, 1
        return self.struct
