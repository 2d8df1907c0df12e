"""Sizes as people write them, and text that a terminal cannot show."""

import os
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from cli.main import main_group
from tests.cli.parsing import parsed
from tests.cli.process import COMMAND, PATIENCE


@pytest.mark.parametrize(("text", "nbytes"), [
    ("8GB", 8 * 10**9), ("8G", 8 * 10**9), ("8gb", 8 * 10**9), ("7.5GiB", 15 * 2**29), ("12 GiB", 12 * 2**30),
    ("512MB", 512 * 10**6), ("512MiB", 2**29), ("64K", 64_000), ("1024", 1024)])
def test_sizes(text: str, nbytes: int) -> None:
    assert parsed(main_group.commands["run"], "x", "--ram", text).params["ram"] == nbytes


@pytest.mark.parametrize("text", ["8 bits", "GB", "-1GB", "0", "1e9", "nan", "0.5", "8GBs"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no size: a number and GiB, GB, MiB or MB"):
        parsed(main_group.commands["run"], "x", "--ram", text)


def test_characters_that_an_encoding_lacks_are_spelled_out(bundled_store: Path, tmp_path: Path) -> None:
    shutil.copytree(bundled_store, tmp_path / "models" / "Katze-\u732b-nf4")
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "SPECEXEC_HOME": str(tmp_path)}
    ran = subprocess.run([*COMMAND, "list"], capture_output=True, text=True, timeout=PATIENCE, env=environment)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "Katze-\\u732b-nf4 " in ran.stdout
