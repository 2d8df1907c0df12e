"""A conversion of a store into another layout: the same codes and scales, nothing quantised anew."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from offload.blueprint import Blueprint, Copy
from offload.errors import DamagedFiles, Refused
from offload.parts import Cast, Part, Relay, Stored
from offload.sheet import Sheet
from offload.store import Store
from offload.writing import entry_of
from specexec.formats import shapes, told


def relaid(store: Store, kind: str | None, layout: str | None) -> Blueprint:
    """kind: None, or the store's own. Raises Refused where kinds differ, and DamagedFiles."""
    identity = store.manifest.identity
    layout = layout if store.layout else None
    if kind not in (None, store.quant):
        raise Refused(f"{store.path} is {store.quant}; a store can be laid out anew, not quantised anew.",
                      hint=f"specexec convert {identity.source} --to {kind}")
    tensors = [name for name in store.manifest.files if name.endswith(".safetensors")]
    sheets = [Sheet(name, tuple(_parts(store, name, layout))) for name in tensors]
    copies = [Copy(store.path / name, store.entry(name).nbytes) for name in store.manifest.files if name not in tensors]

    def check(name: str) -> None:
        if entry_of(store.path / name) != store.entry(name):
            raise DamagedFiles(f"{store.path / name} differs from its checksum.", hint=f"specexec verify {store.path}")

    wanted = replace(identity, layout=layout)
    return Blueprint(wanted, store.matrices, (*copies, *sheets), check)


def _parts(store: Store, file: str, layout: str | None) -> Iterator[Part]:
    found = {name: Stored(store.path / file, name, span) for name, span in store.spans(file).items()}
    for name, tensor in found.items():
        stem, _, last = name.rpartition(".")
        scales = found.get(f"{stem}.scales")
        if last == "weight" and scales and layout:
            yield _matrix(store, stem, tensor, scales, layout)
        elif last != "scales":
            yield Cast(name, tensor, tensor.span.dtype)


def _matrix(store: Store, name: str, codes: Stored, scales: Stored, layout: str) -> Relay:
    kind = _kind(codes, scales) or str(store.quant)
    try:
        rows, columns = store.matrices[name]
        fits = (codes.span.shape, scales.span.shape) == shapes(kind, str(store.layout), rows, columns)
        fits = fits and scales.span.dtype == torch.float16
    except (KeyError, ValueError):
        fits = False
    if not fits:
        raise DamagedFiles(f"{codes.path}: {codes.name} does not fit the manifest.", hint=f"specexec verify {store.path}")
    return Relay(name, codes, scales, kind, (str(store.layout), layout), rows, columns)


def _kind(codes: Stored, scales: Stored) -> str | None:
    return told(*(torch.empty(of.span.shape, dtype=of.span.dtype, device="meta") for of in (codes, scales)))
