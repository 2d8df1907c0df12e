"""`specexec show`: what a model is, and what drafts for it."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from cli import complete
from cli.option import act

if TYPE_CHECKING:  # torch is loaded when a command runs, not when it is named
    from cli.models import Model


@click.command(epilog="Examples: specexec show bundled   |   specexec show Llama-3.2-3B-nf4 --json")
@click.argument("model", shell_complete=complete.models)
@act("--json", "as_json", is_flag=True, help="One JSON object.")
def show(model: str, as_json: bool) -> int:
    """Say what MODEL is, and which drafts here fit it.

    Also its format, context and template, and how it samples unless told otherwise.
    """
    from cli import render
    from cli.table import table

    found = described(model)
    if as_json:
        render.write(json.dumps(found) + "\n")
    else:
        render.write(table((name, _shown(name, value)) for name, value in found.items() if value is not None))
    return 0


def described(name: str) -> dict[str, Any]:
    from cli.find import find

    path = find(name, "target")  # torch, which the next lines load, would be two seconds of waiting for a no
    from cli import fit
    from cli.codec import Codec
    from cli.models import opened, parameters

    model = opened(path)
    return {
        "name": path.name if name != "bundled" else name, **_kept(model), "parameters": parameters(model),
        "layers": model.config.get("num_hidden_layers"), "context": model.config.get("max_position_embeddings"),
        "template": Codec(path).has_template, "sampling": _sampling(model.generation), "drafts": list(fit.drafts(path)),
        "path": str(path),
    }


def _kept(model: "Model") -> dict[str, Any]:
    """How the weights are kept, and where they are from."""
    from offload.folder import stored
    from offload.gguf import Gguf
    from offload.size import size
    from offload.store import Store

    if isinstance(model, Store):
        of = model.manifest.identity
        return {"format": of.quantisation, "layout": of.layout, "copy": of.copy, "size": model.nbytes, "source": of.source,
                "revision": of.revision}
    if isinstance(model, Gguf):
        kinds = ", ".join(f"{kind} {size(nbytes)}" for kind, nbytes in model.bytes_by_kind.items())
        return {"format": f"GGUF: {kinds}", "layout": None, "size": model.nbytes, "source": None, "revision": None}
    kind = str(stored(model)[1]).removeprefix("torch.")
    nbytes = sum(shard.stat().st_size for shard in model.shards())
    return {"format": f"{kind}, as published", "layout": None, "size": nbytes, "source": None, "revision": None}


def _sampling(generation: Mapping[str, Any]) -> dict[str, Any]:
    """What was published with the model, or ours where nothing was; what is off is left out."""
    from dataclasses import asdict

    from cli.models import sampling
    from specexec.sampling import Sampling

    off, chosen = asdict(Sampling()), asdict(sampling(generation))
    return {name: value for name, value in chosen.items() if name == "temperature" or value != off[name]}


def _shown(name: str, value: Any) -> str:
    from offload.size import size

    if value == []:
        return "none"
    if name == "template":
        return "its own" if value else "none: a prompt is continued as it is"
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', '-')} {one:g}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(value)
    return size(value) if name == "size" else f"{value:,}" if isinstance(value, int) else str(value)
