"""What a model may be called: org/name[@revision][:format], a path, `bundled`, or part of the name of what is here."""

import re
from dataclasses import dataclass
from pathlib import Path

from specexec.errors import WrongUsage
from specexec.kinds import KEPT

BUNDLED = "bundled"
FORMATS = ("nf4", "int8", "bf16")
BEFORE = ("hf://", "https://huggingface.co/", "huggingface.co/")
FOREIGN = re.compile(r"(iq|q)\d\w*|fp?16|bf16|fp?32|nf4|int[48]|[2-8]-?bit|awq|gptq", re.IGNORECASE)  # other tools' formats


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


def is_gguf(path: Path) -> bool:
    return path.suffix.lower() == ".gguf" and not path.is_dir()


def parse(text: str) -> Name:
    """Raises WrongUsage for what no model can be called."""
    bare = next((text.removeprefix(before) for before in BEFORE if text.startswith(before)), text)
    rest, _, form = bare.partition(":")
    model, _, revision = rest.partition("@")
    if form and form not in (*FORMATS, *KEPT):
        raise WrongUsage(f'"{text}": {form} is no format of specexec.', hint=f"{rest}:{nearest(form)}")
    if FOREIGN.fullmatch(revision):
        raise WrongUsage(f'"{text}": {revision} is a format, and @ names a revision.', hint=f"{model}:{nearest(revision)}")
    if not model or text.endswith((":", "@")):
        raise WrongUsage(f'"{text}" is no name of a model.', hint="specexec list shows what is here")
    return Name(model, revision or None, form or None)


def nearest(form: str) -> str:
    """Of our formats, to another tool's."""
    return "int8" if "8" in form else "bf16" if "16" in form or "32" in form else "nf4"
