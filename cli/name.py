"""What a model may be called: org/name[@revision][:format], a path, `bundled`, or part of the name of what is here."""

import re
from dataclasses import dataclass

from specexec.errors import WrongUsage

BUNDLED = "bundled"
FORMATS = ("nf4", "int8", "bf16")
HUB = "hf://"
FOREIGN_FORMAT = re.compile(r"(i?q[2-8](_\w+)?|[2-8][-_ ]?bits?|awq|gptq|gguf|exl[23])", re.IGNORECASE)  # in others' habit


@dataclass(frozen=True)
class Name:
    """model: org/name, or a part of it; revision, format: None where not said."""

    model: str
    revision: str | None = None
    format: str | None = None

    def __str__(self) -> str:
        return self.model + (f"@{self.revision}" if self.revision else "") + (f":{self.format}" if self.format else "")


def is_path(text: str) -> bool:
    return text.startswith((".", "/", "~"))


def parse(text: str) -> Name:
    """Raises WrongUsage for what no model can be called."""
    rest, _, form = text.removeprefix(HUB).partition(":")
    model, _, revision = rest.partition("@")
    if form and form not in FORMATS:
        known = " or ".join(f"{rest}:{known}" for known in FORMATS)
        raise WrongUsage(f'"{text}": {form} is no format of specexec.', hint=known)
    if FOREIGN_FORMAT.fullmatch(revision):
        raise WrongUsage(f'"{text}": {revision} is a format, and @ names a revision.', hint=f"{model}:nf4")
    if not model or text.endswith((":", "@")):
        raise WrongUsage(f'"{text}" is no name of a model.', hint="specexec list shows what is here")
    return Name(model, revision or None, form or None)
