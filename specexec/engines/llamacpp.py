"""llama.cpp's library through llama-cpp-python's low-level interface: loaded when it is needed, its log and its errors ours."""

import ctypes
import sys
import weakref
from collections import deque
from functools import cache
from pathlib import Path
from typing import Any

from specexec.errors import Failed, Unsupported

INSTALL = "pip install 'specexec[gguf]'"
ERROR, DEBUG = 3, 4  # of llama.cpp's levels of logging

_said: deque[str] = deque(maxlen=8)  # its last errors


@cache
def library() -> Any:
    """The module llama_cpp. Raises Unsupported where it is not installed."""
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise Unsupported(f"GGUF files are run by llama.cpp, which is not here ({error}).",
                          hint=f"{INSTALL}, or specexec convert FILE.gguf") from error
    listen(verbose=False)
    llama_cpp.llama_backend_init()
    return llama_cpp


def listen(verbose: bool) -> None:
    """What llama.cpp logs goes to stderr, or nowhere but for its last errors, which `failed` tells."""
    global _hearing
    import llama_cpp

    def hear(level: int, text: bytes, _: Any) -> None:
        if verbose and level != DEBUG:
            sys.stderr.write(text.decode(errors="replace"))
        if level == ERROR:
            _said.append(text.decode(errors="replace").strip())

    _hearing = llama_cpp.llama_log_callback(hear)
    llama_cpp.llama_log_set(_hearing, ctypes.c_void_p(0))


_hearing: Any = None  # llama.cpp keeps no reference to what it calls


def failed(what: str, hint: str) -> Failed:
    """An error, with what llama.cpp said last."""
    said = f" ({_said[-1]})" if _said else ""
    _said.clear()
    return Failed(f"{what}{said}.", hint=hint)


def has_gpu() -> bool:
    return bool(library().llama_supports_gpu_offload())


def repacks() -> bool:
    """Whether weights may be laid out anew for this processor: up to twice as fast, but it ends the process on AMX."""
    return b"AMX" not in library().llama_print_system_info()


class Model:
    """A GGUF file's weights. gpu_layers: how many go to a GPU; -1 for all."""

    def __init__(self, path: Path, gpu_layers: int) -> None:
        llama, self.path, self.gpu_layers = library(), path, gpu_layers
        params = llama.llama_model_default_params()
        params.n_gpu_layers, params.use_extra_bufts = gpu_layers, repacks()
        self.pointer = llama.llama_model_load_from_file(str(path).encode(), params)
        if not self.pointer:
            raise failed(f"llama.cpp cannot load {path}", "another copy of the file, or specexec convert " + str(path))
        weakref.finalize(self, llama.llama_model_free, self.pointer)
        if llama.llama_model_is_recurrent(self.pointer) or llama.llama_model_is_hybrid(self.pointer):
            raise Unsupported(f"{path} is a recurrent model, which cannot go back to an earlier token.",
                              hint="a model with attention in all layers")
        self.vocabulary = int(llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.pointer)))
