"""kill -9 at any moment of a pull: nothing half-made is ever a model, the same command goes on, and nobody stays locked out."""

import contextlib
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from offload.manifest import is_store
from tests.cli.conftest import Specexec
from tests.cli.process import COMMAND, PATIENCE
from tests.cli.pull.test_pull import asked_for, fetched, snapshot, weights
from tests.cli.test_errors import assert_two_lines
from tests.hub import REPO, Hub, same_files

RATE = 4 * 10**6  # bytes a second of one answer, so that a pull takes seconds


def pull(hub: Hub, home: Path, **environment: str) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    return subprocess.Popen([*COMMAND, "pull", REPO, "-q"], stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True,
                            env=hub.environment(home, **environment))


def until(hub: Hub, part: str, process: "subprocess.Popen[str]", after: int) -> None:
    """Waits for a request, beyond the first `after`, of a path that holds this."""
    end = time.monotonic() + PATIENCE
    while not any(part in request["path"] for request in hub.requests[after:]) and process.poll() is None:
        assert time.monotonic() < end, "the pull does not begin"
        time.sleep(0.02)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_it_goes_on_after_every_kill(kills: int, hub: Hub, folder: Path, wanted: Path, store: Path, tmp_path: Path) -> None:
    hub.add(REPO, folder)
    chance, home = random.Random(kills), tmp_path / "home"
    for _ in range(kills):
        hub.breaks({"match": "/cdn/", "rate": RATE})
        process = pull(hub, home)
        until(hub, "/api/", process, len(hub.requests))
        time.sleep(chance.uniform(0, 2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if is_store(store):
            assert same_files(store, wanted)
    hub.breaks()
    out, err = pull(hub, home).communicate(timeout=PATIENCE)
    assert (out, err) == ("Tiny-Stories-1B-nf4\n", "")
    assert same_files(store, wanted)
    assert [path.name for path in store.parent.iterdir()] == [store.name]


def test_a_second_pull_at_once_hears_of_the_first(
    hub: Hub, folder: Path, tmp_path: Path, specexec: Specexec
) -> None:
    hub.add(REPO, folder)
    hub.breaks({"match": "/cdn/", "rate": 10**5})
    first = pull(hub, tmp_path / "home")
    until(hub, "/cdn/", first, 0)
    ran = specexec("pull", REPO)
    assert (ran.code, ran.out) == (1, "")
    assert_two_lines(ran.err, f"({first.pid}: specexec pull {REPO} -q, since ")
    first.kill()
    first.wait()


@pytest.mark.parametrize("yes", ["1", "ON", "YES", "TRUE", "true"])
def test_offline_is_heard_as_huggingface_hub_hears_it(yes: str, hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.add(REPO, folder)
    process = pull(hub, tmp_path / "home", HF_HUB_OFFLINE=yes)
    assert "HF_HUB_OFFLINE is set" in process.communicate(timeout=PATIENCE)[1]
    assert (process.returncode, hub.requests) == (4, [])


@pytest.mark.parametrize("variable", ["HF_HOME", "HF_HUB_CACHE"])
def test_the_persons_cache_is_where_the_environment_says(
    variable: str, hub: Hub, folder: Path, wanted: Path, store: Path, tmp_path: Path
) -> None:
    snapshot(hub, tmp_path / "hub", folder)  # which the hub has too
    where = tmp_path / "hub" / "cache"
    (tmp_path / "hub" / "hub").symlink_to(where)  # which HF_HOME's is called
    process = pull(hub, tmp_path / "home", **{variable: str(where if variable == "HF_HUB_CACHE" else tmp_path / "hub")})
    assert process.communicate(timeout=PATIENCE) == ("Tiny-Stories-1B-nf4\n", "")
    assert hub.asked("/cdn/") == []
    assert same_files(store, wanted)


@pytest.mark.parametrize("disk", ["40m"], indirect=True)
def test_a_disk_that_fills_up_loses_nothing(hub: Hub, folder: Path, wanted: Path, disk: Path) -> None:
    """A real one, which somebody else fills while shards come."""
    hub.add(REPO, folder)
    hub.breaks({"match": "/cdn/", "rate": RATE})
    home, other = disk / "home", disk / "somebody's"
    process = pull(hub, home)
    while len(fetched(hub)) < 2 and process.poll() is None:  # the first is whole
        time.sleep(0.02)
    with contextlib.suppress(OSError), other.open("wb", buffering=0) as file:
        while file.write(bytes(2**12)):
            pass
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (3, "")
    assert_two_lines(err, "the disk is full at ", "nothing is lost", "then the same command goes on")
    other.unlink()
    hub.breaks()
    before = len(hub.requests)
    assert pull(hub, home).communicate(timeout=PATIENCE) == ("Tiny-Stories-1B-nf4\n", "")
    assert same_files(home / "models" / "Tiny-Stories-1B-nf4", wanted)
    assert asked_for(hub, folder, before) < weights(folder) - min(path.stat().st_size for path in folder.glob("*.safetensors"))
