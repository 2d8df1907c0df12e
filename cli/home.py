"""Where models are kept, and what is known of this machine."""

import os
from pathlib import Path

import platformdirs

from offload.errors import Refused
from offload.manifest import is_store
from offload.removal import LEFT


def home() -> Path:
    """SPECEXEC_HOME, else the user's data folder."""
    return _under(platformdirs.user_data_path("specexec", appauthor=False))


def models() -> Path:
    return home() / "models"


def machine() -> Path:
    """The file of what was measured: of SPECEXEC_HOME's disk, where that is set."""
    return _under(platformdirs.user_cache_path("specexec", appauthor=False)) / "machine.json"


def state() -> Path:
    """What a person typed and was told: the user's state folder."""
    return platformdirs.user_state_path("specexec", appauthor=False)


def _under(folder: Path) -> Path:
    named = os.environ.get("SPECEXEC_HOME")
    path = Path(named).expanduser() if named else folder
    if named and path.exists() and not path.is_dir():
        raise Refused(f"SPECEXEC_HOME: {named} is no folder.", hint="another value, or unset SPECEXEC_HOME")
    return path


def folders() -> list[Path]:
    """Of the models that are here, by name; what interrupted work left is none."""
    here = models()
    found = [path for path in here.iterdir() if path.suffix not in LEFT] if here.is_dir() else []
    return sorted((path for path in found if is_store(path)), key=lambda path: path.name.casefold())


def ggufs() -> list[Path]:
    """Of the GGUF files that were put beside them."""
    here = models()
    return sorted((path for path in here.glob("*.gguf") if path.is_file()), key=lambda path: path.name.casefold())


def placed(name: str) -> Path:
    """Where the model called `name` is kept. Raises Refused for what is no name."""
    if not name or name != Path(name).name or name.startswith(".") or name.endswith(LEFT) or "\0" in name:
        raise Refused(f'"{name}" cannot be the name of a model.', hint="--name NAME without slashes, or --out DIR")
    return models() / name
