"""A llama.cpp context: its KV cache and its passes."""

import ctypes
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from specexec.engines.llamacpp import Model, failed, library
from specexec.errors import Interrupted

SLOW = 0.05  # seconds of a pass from which on Ctrl-C is heard within it: asking Python costs 1 us an operation of the model
ABORTED = 2  # llama_decode's word for it
BF16 = 30  # ggml.h's number of the type, which llama-cpp-python does not name


@dataclass(frozen=True)
class Room:
    """cells: of the KV cache, of cell_bytes each. rows: of a pass, at the most.

    tree: of these the most whose logits are wanted, and sequences that a cell may belong to: llama.cpp looks at each pair of
    them in every pass, 0.07 ms for 256. vocabulary: ids whose logits are wanted. wide: keys and values are fp32. on_gpu:
    weights are.
    """

    cells: int
    cell_bytes: int
    rows: int
    tree: int
    vocabulary: int
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
        self._row = _address_of_logits(llama)
        self._memory, self._batch = llama.llama_get_memory(self.pointer), _Batch(llama, room.rows)
        self._asking, self._silent = llama.ggml_abort_callback(lambda _: stop()), llama.ggml_abort_callback()
        self._asks = False
        self._seconds = 0.0  # of the last pass, a token
        self._seen = (0, 0)  # address and rows of the logits that `_view` shows
        self._view = torch.empty(0)

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
        """fp32[read, vocabulary]: logits of the last `read` tokens, valid until the next call. sequences: of each token.

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
            return torch.empty(0, self.room.vocabulary)
        at = self._row(self.pointer)
        if self._seen != (at, rows):
            made = (ctypes.c_float * (rows * self.model.vocabulary)).from_address(at)
            whole = torch.frombuffer(made, dtype=torch.float32).view(rows, -1)
            self._seen, self._view = (at, rows), whole[:, : self.room.vocabulary]
        return self._view


def _parameters(llama: Any, room: Room) -> Any:
    found = llama.llama_context_default_params()
    found.n_ctx, found.n_seq_max, found.kv_unified = room.cells, room.tree, True
    found.swa_full, found.no_perf = True, True  # rows that slid out of a window are wanted again when a tree is dropped
    found.n_batch = found.n_ubatch = room.rows
    found.n_outputs_max = room.tree
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


def _address_of_logits(llama: Any) -> Any:
    """llama_get_logits, as a number: a pointer object takes as long to make as a small row to read."""
    at = ctypes.cast(llama.llama_get_logits, ctypes.c_void_p).value or 0
    return ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(at)


class _Batch:
    """struct: llama.cpp's batch of at most `rows` tokens, which points into arrays that are kept here.

    Made once, and what a pass has in common with the one before stays: a pass of a small model takes less time than they do.
    """

    def __init__(self, llama: Any, rows: int) -> None:
        kinds: Sequence[Any] = (*[ctypes.c_int32] * 3, ctypes.c_void_p, ctypes.c_int8)
        self._tokens, self._positions, self._counts, self._starts, self._wanted = ((kind * rows)() for kind in kinds)
        starts = ctypes.cast(self._starts, dict(llama.llama_batch._fields_)["seq_id"])
        self.struct = llama.llama_batch(0, self._tokens, None, self._positions, self._counts, starts, self._wanted)
        self._laid: tuple[Sequence[Sequence[int]], int] = ((), 0)

    def fill(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[Sequence[int]], read: int
    ) -> Any:
        """The struct of these tokens, the last `read` of which are to have logits."""
        n = self.struct.n_tokens = len(tokens)
        self._tokens[:n], self._positions[:n] = tokens, positions
        if self._laid != (sequences, read):
            self._lay(sequences)
            self._wanted[:n] = [0] * (n - read) + [1] * read
            self._laid = sequences, read
        return self.struct

    def _lay(self, sequences: Sequence[Sequence[int]]) -> None:
        ids = [one for those in sequences for one in those]
        self._ids = (ctypes.c_int32 * len(ids))(*ids)
        at = ctypes.addressof(self._ids)
        for row, those in enumerate(sequences):
            self._counts[row], self._starts[row] = len(those), at
            at += ctypes.sizeof(ctypes.c_int32) * len(those)
