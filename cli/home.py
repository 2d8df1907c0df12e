"""Where converted models are kept, and what is known of this machine."""

import os
from pathlib import Path

import platformdirs

from offload.errors import Refused


def home() -> Path:
    """SPECEXEC_HOME, else the user's data folder."""
    named = os.environ.get("SPECEXEC_HOME")
    return Path(named).expanduser() if named else platformdirs.user_data_path("specexec", appauthor=False)


def models() -> Path:
    return home() / "models"


def machine() -> Path:
    """The file of what was measured."""
    return home() / "machine.json"


def state() -> Path:
    """What a person typed and was told: the user's state folder."""
    return platformdirs.user_state_path("specexec", appauthor=False)


def placed(name: str) -> Path:
    """Where the model called `name` is kept. Raises Refused for what is no name."""
    if not name or name != Path(name).name or name.startswith(".") or "\0" in name:
        raise Refused(f'"{name}" cannot be the name of a model.', hint="--name NAME without slashes, or --out DIR")
    return models() / name
