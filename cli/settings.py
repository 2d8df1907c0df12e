"""From a command's options to what the parts understand."""

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from cli.codec import Codec
from cli.find import find
from cli.models import ModelOptions
from cli.question import read_text
from cli.session import AnswerOptions
from cli.values import AUTO
from offload.manifest import is_store
from specexec.engines.device import choose_device
from specexec.errors import WrongUsage
from specexec.kernels.library import why_not
from specexec.sampling import Sampling

SAMPLING = tuple(field.name for field in fields(Sampling))


def model_options(given: Mapping[str, Any]) -> ModelOptions:
    return ModelOptions(given["model"], tuple(given["draft"]), _device(given), given["dtype"], given["ctx_size"],
                        given.get("raw", False), given["quant"], int(given["activations"]), given["ram"], given["vram"] or None,
                        _nodes(given), given.get("draft_kv", AUTO), given.get("kv", AUTO),
                        given.get("kv_place", AUTO), bool(given.get("verbose")), given.get("cache"), bool(given.get("quiet")))


def _device(given: Mapping[str, Any]) -> str:
    """Nothing of the GPU's memory is nothing of the GPU."""
    if given["vram"] != 0:
        return str(given["device"])
    if given["device"] not in (AUTO, "cpu"):
        raise WrongUsage(f"--vram 0 and --device {given['device']} contradict each other.", hint="one of the two")
    return "cpu"


def answer_options(given: Mapping[str, Any], defaults: Sampling) -> AnswerOptions:
    """The model's own sampling, with what the person set instead; a random seed where none is given."""
    chosen = {name: given[name] for name in SAMPLING if given.get(name) is not None}
    seed = given["seed"] if given["seed"] is not None else secrets.randbits(32)
    stops = tuple(given.get("stop", ()))
    if "" in stops:
        raise click.BadParameter("an empty text would end every answer.", param_hint="--stop")
    return AnswerOptions(replace(defaults, **chosen), seed, _nodes(given), given.get("max_tokens"), stops)


def think(codec: Codec, wanted: bool | None) -> None:
    """Raises WrongUsage where the model's template cannot be asked."""
    if wanted is not None and not codec.can_choose_thinking:
        what = "the model's chat template does not ask for thoughts" if codec.has_template else "there is no chat template"
        raise WrongUsage(f"--think, --no-think: {what}.", hint="the same without it; -R hides thoughts")
    codec.thinking = wanted


def _nodes(given: Mapping[str, Any]) -> int | None:
    """None: auto."""
    return None if given["budget"] == AUTO else int(given["budget"])


def was_given(name: str) -> bool:
    """Whether the person set this option of the running command, in whatever way."""
    return click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT


def remarks(wanted: ModelOptions) -> Iterator[str]:
    """What the person should know of the options, a line each."""
    if wanted.drafts == ("none",) and was_given("budget"):
        yield "--draft none: --budget is ignored"
    if wanted.quant and is_store(find(wanted.model, "target")):
        yield f"--quant {wanted.quant}: {wanted.model} is converted already, so it is ignored"
    elif wanted.quant and (reason := why_not()) and choose_device(wanted.device).type == "cpu":
        yield f"--quant {wanted.quant}: {reason}"


def system_prompt(given: str | None) -> str | None:
    """The text itself, or that of the file that @FILE names."""
    return read_text(Path(given[1:])) if given and given.startswith("@") else given
