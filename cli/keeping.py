"""`--to keep`: what it means for a model."""

from cli.models import Model
from offload.gguf import Gguf
from offload.gguf_keep import KEEP, main_kind
from specexec.errors import WrongUsage


def kind(model: Model | None, to: str | None) -> str:
    """The format a model would be converted to, nf4 by default; None: of its configuration alone.

    Raises WrongUsage for KEEP of what is no GGUF file, or Refused where such a file holds nothing that can be kept.
    """
    if to != KEEP:
        return to or "nf4"
    if isinstance(model, Gguf):
        return main_kind(model)
    raise WrongUsage("--to keep leaves blocks of a GGUF file as they are; this is none.", hint="the same command with --to nf4")
