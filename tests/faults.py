"""Disks that fail, in processes of their own: faults.c, compiled and preloaded."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path

import pytest

_scratch = tempfile.TemporaryDirectory(prefix="faults-")
_one_at_a_time = threading.Lock()


def _library() -> Path:
    with _one_at_a_time:  # a test starts processes from several threads
        return _compiled()


@cache
def _compiled() -> Path:
    made = Path(_scratch.name) / "faults.so"
    given = ["cc", "-shared", "-fPIC", "-O1", "-o", str(made), str(Path(__file__).with_suffix(".c")), "-ldl"]
    subprocess.run(given, check=True)
    return made


def environment(kind: str, part: str, number: int = 0, only_while: Path | None = None) -> dict[str, str]:
    """Variables of a process whose reads of files with `part` in their path have such a fault (faults.c)."""
    if sys.platform != "linux" or not shutil.which("cc"):
        reason = "reads are made to fail on Linux, by a C compiler's work"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(reason)
        pytest.skip(reason)
    found = {**os.environ, "LD_PRELOAD": str(_library()), "FAULTS": f"{kind}:{part}:{number}"}
    return found | ({"FAULTS_WHILE": str(only_while)} if only_while else {})
