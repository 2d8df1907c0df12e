"""Where converted models are kept."""

import os
from pathlib import Path

import platformdirs

from offload.errors import Refused


def models() -> Path:
    """SPECEXEC_HOME/models, else the user's data folder's."""
    home = os.environ.get("SPECEXEC_HOME")
    return (Path(home).expanduser() if home else platformdirs.user_data_path("specexec", appauthor=False)) / "models"


def placed(name: str) -> Path:
    """Where the model called `name` is kept. Raises Refused for what is no name."""
    if not name or name != Path(name).name or name.startswith(".") or "\0" in name:
        raise Refused(f'"{name}" cannot be the name of a model.', hint="--name NAME without slashes, or --out DIR")
    return models() / name
