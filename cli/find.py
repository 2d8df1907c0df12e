"""What the name of a model means: the bundled pair, a folder as published, a converted store, or a GGUF file."""

import importlib.resources
from dataclasses import replace
from pathlib import Path

from cli.home import folders, models
from cli.name import BUNDLED, Name, is_gguf, is_path, parse
from cli.shelf import called, nearest
from offload.errors import NotHere, Refused
from specexec.errors import WrongUsage


def find(text: str, role: str) -> Path:
    """The folder or GGUF file that `text` means (name.py); role: target or draft, which of the bundled pair is meant.

    Raises NotHere, Refused for other files, or WrongUsage where it is no name, or means several models.
    """
    if text == BUNDLED:
        return Path(str(importlib.resources.files("specexec.bundled") / role))
    if is_path(text):
        return _folder(Path(text).expanduser())
    if is_gguf(Path(text)):
        return next((path for path in (Path(text), models() / text) if path.exists()), Path(text))
    name = parse(text)
    exact = models() / name.model
    if name == Name(text) and exact in folders():  # also one that is damaged, to be verified or removed
        return exact
    found = called(name)
    if not found:
        raise not_here(name)
    if len(found) > 1:
        raise WrongUsage(f'"{text}" means several models here.', hint="one of " + ", ".join(of.name for of in found))
    return found[0].path


def _folder(path: Path) -> Path:
    if path.is_file() and not is_gguf(path):
        raise Refused(f"{path} is a file; models are folders, or GGUF files.",
                      hint="the folder that holds config.json and model.safetensors")
    return path


def not_here(name: Name) -> NotHere:
    """What to say of a model that is not here: the nearest one that is, a folder of that name, or where to get it."""
    near = nearest(name)
    ways = [near] if near else []
    if Path(name.model).exists():
        ways.append(f"./{name.model}, the folder")
    repo = replace(name, format=None) if "/" in name.model else "ORG/NAME"
    ways.append(f"specexec pull {repo}" + (f" --to {name.format}" if name.format else ""))
    return NotHere(f'no model "{name}" here.', hint=", or ".join(ways))
