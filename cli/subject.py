"""What `plan` is asked about: a store, a model to be converted, or the configuration of one, nothing of which is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cli.find import find
from cli.keeping import kind
from cli.ledger import resident_weights, sizes
from cli.low_bit import KIND, copy_bytes
from cli.models import ModelOptions, opened
from cli.name import is_gguf
from offload.folder import Folder, json_object, stored
from offload.footprint import Footprint, footprint
from offload.gguf import Gguf
from offload.store import Store
from specexec.engines.architecture import Architecture
from specexec.engines.device import DTYPES, choose_dtype
from specexec.engines.families import admit
from specexec.errors import WrongUsage
from specexec.kernels.library import load


@dataclass(frozen=True)
class Subject:
    """What weights are in memory: kind is nf4, int8 or a dtype's name, layout of formats.py or None. bytes: of the whole.

    files: of its layers, where it is a store. fetch: bytes of a model that is not here, as the hub has it. copy: bytes of a
    layer's low-bit copy, which is there if has_copy.
    """

    name: str
    kind: str
    layout: str | None
    of: Footprint
    bytes: int
    config: Architecture
    files: Sequence[Path] = ()
    fetch: int = 0
    copy: int = 0
    has_copy: bool = False

    @property
    def trained(self) -> int:
        """Positions."""
        return int(self.config.max_position_embeddings)


def target(name: str, to: str | None) -> Subject:
    """to: what a model that is no store would be converted to, nf4 by default. Raises WrongUsage where a store is not `to`."""
    if _is_config(path := Path(name).expanduser()):
        return configured(name, json_object(path), kind(None, to))
    model = opened(find(name, "target"))
    if isinstance(model, Store):
        if to not in (None, model.quant):
            raise WrongUsage(f"{model.path} is {model.quant}.", hint=f"specexec plan {model.path / 'config.json'} --to {to}")
        return of_store(name, model)
    return configured(name, model.config, kind(model, to))


def draft(name: str, to: str | None) -> Subject:
    """A folder is drafted with as it is; what has a configuration alone, as it would be converted."""
    if _is_config(path := Path(name).expanduser()):
        return configured(name, json_object(path), kind(None, to))
    model = opened(find(name, "draft"))
    if isinstance(model, Gguf):
        return replace(configured(name, model.config, "nf4"), bytes=resident_weights(model, ModelOptions()))
    if isinstance(model, Store):
        return replace(of_store(name, model), bytes=resident_weights(model, ModelOptions()))
    return _published(name, model)


def _is_config(path: Path) -> bool:
    return path.is_file() and not is_gguf(path)


def of_store(name: str, store: Store) -> Subject:
    files = [store.path.resolve() / layer for layer in store.layers]
    has_copy = store.manifest.identity.copy is not None
    copy = copy_bytes(name, store) if has_copy else footprint(store.config, KIND).layer
    return Subject(name, store.quant, store.layout, sizes(store), store.nbytes, admit(store.config), files, 0, copy, has_copy)


def _published(name: str, folder: Folder) -> Subject:
    dtype = choose_dtype("auto", *stored(folder))
    kind = next(known for known, of in DTYPES.items() if of == dtype)
    of, config = _sized(folder.config, "bf16")
    return Subject(name, kind, None, of, resident_weights(folder, ModelOptions()), config)


def configured(name: str, config: dict[str, object], to: str) -> Subject:
    """A model that is not here, as it would be converted."""
    of, admitted = _sized(config, to)
    layout = "tile16" if load() else "rowmajor"
    copy = _sized(config, KIND)[0].layer
    return Subject(name, to, None if to == "bf16" else layout, of, of.weights, admitted, copy=copy)


def _sized(raw: dict[str, object], kind: str) -> tuple[Footprint, Architecture]:
    config = admit(raw)
    return footprint(vars(config), kind), config
