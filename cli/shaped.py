"""Stores of the bundled pair in large shapes: made once, after the person has agreed to the disk they take."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cli.find import find
from cli.home import placed
from cli.name import BUNDLED
from cli.progress import Progress
from offload.blueprint import Blueprint
from offload.convert import convert
from offload.errors import NotHere, Refused
from offload.expand import expanded
from offload.expansion import Expansion
from offload.folder import Folder
from offload.low_bit import with_copy
from offload.manifest import is_store, read_manifest
from offload.shape import DRAFTS, SHAPES, Shape, exact
from offload.size import size
from offload.store import Store


@dataclass(frozen=True)
class Shaped:
    """The bundled model `role` (target or draft) in a shape, as a store of the format `kind`."""

    expansion: Expansion
    role: str
    kind: str
    layout: str | None

    @property
    def path(self) -> Path:
        return placed(f"{BUNDLED}-{self.role}-{self.expansion.title}-{self.kind}")

    @property
    def exact(self) -> bool:
        """Whether norms and attention are the small model's to the last bit."""
        return exact(self.expansion.small, self.expansion.large)

    def blueprint(self) -> Blueprint:
        return expanded(self.expansion, self.kind, self.layout)

    def store(self, yes: bool, quiet: bool, copy: str | None = None) -> Store:
        """Made where it is not there yet; copy: with a low-bit one of that kind. Raises Refused where nobody agrees."""
        blueprint = with_copy(self.blueprint(), copy) if copy else self.blueprint()
        if not is_store(self.path) or (copy and read_manifest(self.path).identity.copy is None):
            _agree(blueprint, self.path, yes)
        progress = Progress(self.path.name, quiet)
        try:
            convert(blueprint, self.path, progress)
        finally:
            progress.clear()
        return Store(self.path)


def shaped(name: str, role: str, kind: str, layout: str) -> Shaped:
    """name: one of SHAPES, or the path of a config.json. Raises NotHere or Refused."""
    title, config = (name, SHAPES[name]) if name in SHAPES else _read(Path(name).expanduser())
    return Shaped(Expansion(Folder(find(BUNDLED, role)), config, title), role, kind, None if kind == "bf16" else layout)


def usual_draft(config: Shape) -> str:
    return DRAFTS[config.kind]


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    hint = f"--shape {', '.join(SHAPES)}, or the path of a config.json"
    if not path.is_file():
        raise NotHere(f'there is no shape "{path}".', hint=hint)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refused(f"{path} cannot be read: {error}", hint=hint) from error
    if not isinstance(found, dict):
        raise Refused(f"{path} holds no JSON object.", hint=hint)
    return path.resolve().parent.name, found


def _agree(blueprint: Blueprint, path: Path, yes: bool) -> None:
    what = f"{path.name} takes {size(blueprint.nbytes)} of disk at {path.parent}"
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused(f"{what}, and nobody was there to agree.", hint="the same command with --yes")
    click.confirm(f"{what}. Make it?", abort=True, err=True)
