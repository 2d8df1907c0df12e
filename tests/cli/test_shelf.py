"""list, show, rm, verify: what is here is whole, and what goes is gone in one step."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from offload import removal
from offload.lock import locked
from tests.cli import process
from tests.cli.conftest import Specexec
from tests.offload.test_store import flip


@pytest.fixture
def here(bundled_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of models, with one in it, whole."""
    monkeypatch.setenv("SPECEXEC_HOME", str(tmp_path))
    models = tmp_path / "models"
    shutil.copytree(bundled_store, models / "stories-nf4")
    return models


def leave(models: Path, name: str) -> Path:
    """What an interrupted conversion leaves."""
    partial = models / f"{name}.partial"
    (partial / "store").mkdir(parents=True)
    (partial / "store" / "layer-000.safetensors").write_bytes(bytes(100_000))
    (partial / "journal").write_text("")
    return partial


def names(specexec: Specexec) -> list[str]:
    return [json.loads(line)["name"] for line in specexec("list", "--json").out.splitlines()]


def test_what_is_here_is_listed_with_format_size_and_source(specexec: Specexec, here: Path) -> None:
    ran = specexec("list")
    head, bundled, ours = ran.out.splitlines()
    assert head.split() == ["NAME", "FORMAT", "SIZE", "SOURCE"]
    assert bundled.startswith("bundled ")
    assert re.match(r"stories-nf4 +nf4 +\d\.\d MB +/.*/target$", ours)
    assert (ran.code, ran.err) == (0, "")
    assert specexec("ls").out == ran.out


def test_half_a_model_is_never_listed(specexec: Specexec, here: Path) -> None:
    leave(here, "half-nf4")
    for name in ("cut", "gone", "spoiled"):
        shutil.copytree(here / "stories-nf4", here / name)
    (here / "cut" / "layer-003.safetensors").write_bytes(b"")
    (here / "gone" / "head.safetensors").unlink()
    flip(here / "spoiled" / "manifest.json", 100)
    (here / "empty").mkdir()
    ran = specexec("list")
    assert names(specexec) == ["bundled", "stories-nf4"]
    assert "half-nf4.partial: unfinished, 0.2 MB" in ran.err
    for name in ("cut", "gone", "spoiled"):
        assert f"specexec verify {name} says more" in ran.err
    assert ran.code == 0


def test_saved_chats_are_listed_the_latest_first(
    specexec: Specexec, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.sessions.folder", lambda: tmp_path / "sessions")
    assert "no saved chats" in specexec("list", "--sessions").err
    (tmp_path / "sessions").mkdir()
    for age, name in enumerate(("newest", "older")):
        path = tmp_path / "sessions" / f"{name}.jsonl"
        path.write_text("{}\n")
        os.utime(path, (1e9 - age, 1e9 - age))
    assert [line.split()[0] for line in specexec("list", "--sessions").out.splitlines()] == ["NAME", "newest", "older"]


def test_show_says_what_a_model_is_and_what_drafts_for_it(specexec: Specexec, here: Path) -> None:
    found = json.loads(specexec("show", "stories", "--json").out)
    assert (found["name"], found["format"], found["layers"], found["context"]) == ("stories-nf4", "nf4", 6, 1024)
    assert found["parameters"] == pytest.approx(5_049_600, rel=0.001)
    assert found["drafts"] == ["bundled"]
    assert found["sampling"] == {"temperature": 0.7, "top_p": 0.95}
    assert found["template"] is False
    text = specexec("show", "stories").out
    for said in ("1,024", "a prompt is continued as it is", "temperature 0.7, top-p 0.95", str(here / "stories-nf4")):
        assert said in text


def test_show_names_no_draft_with_other_tokens(specexec: Specexec, here: Path, shared: Path) -> None:
    found = json.loads(specexec("show", str(shared / "models" / "stories260k"), "--json").out)
    assert found["drafts"] == []


def test_rm_removes_what_is_named_and_says_what_that_frees(specexec: Specexec, here: Path) -> None:
    ran = specexec("rm", "stories", "-y")
    assert (ran.code, ran.out) == (0, "")
    assert re.match(r"stories-nf4 is removed: \d\.\d MB free\n$", ran.err)
    assert list(here.iterdir()) == []


def test_rm_asks_and_without_anybody_refuses(specexec: Specexec, here: Path) -> None:
    ran = specexec("rm", "stories-nf4")
    assert ran.code == 2
    assert re.search(r"would remove stories-nf4 \(\d\.\d MB\)", ran.err)
    assert ran.err.endswith("Try: the same command with -y\n")
    assert names(specexec) == ["bundled", "stories-nf4"]


@pytest.mark.parametrize(("key", "left"), [("n", True), ("", True), ("y", False)])
def test_a_person_is_asked_on_a_terminal(here: Path, key: str, left: bool) -> None:
    command = ["script", "-qec", f"{process.COMMAND[0]} -m specexec rm stories-nf4", "/dev/null"]
    ran = subprocess.run(command, input=f"{key}\n", capture_output=True, text=True, timeout=process.PATIENCE)
    assert "Remove stories-nf4 (" in ran.stdout
    assert (here / "stories-nf4").exists() == left
    assert ran.returncode == (1 if left else 0)


@pytest.mark.parametrize(("arguments", "code", "said"), [
    (("rm", "bundled"), 1, "belongs to the program"),
    (("rm", "no-such-model"), 4, "no model"),
    (("rm", "./no-such-folder"), 4, "no folder"),
    (("rm", "--partial", "stories"), 2, "contradict"),
    (("rm",), 2, "no model is named"),
])
def test_what_rm_will_not_do_is_said(specexec: Specexec, here: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    ran = specexec(*arguments, "-y")
    assert (ran.code, ran.err.count("\n")) == (code, 2)
    assert said in ran.err
    assert (here / "stories-nf4").exists()


def test_a_folder_that_specexec_did_not_make_stays(specexec: Specexec, here: Path, tmp_path: Path) -> None:
    """Also one with a manifest.json of another kind, and a store into which somebody put something."""
    other, store = tmp_path / "extension", Path(shutil.copytree(here / "stories-nf4", tmp_path / "store"))
    other.mkdir()
    (other / "thesis.txt").write_text("dear")
    (store / "notes.txt").write_text("dear")
    for folder, said in ((other, "is not of specexec's making"), (store, "notes.txt")):
        ran = specexec("rm", str(folder), "-y")
        assert (ran.code, ran.err.count("\n")) == (1, 2)
        assert said in ran.err
    (other / "manifest.json").write_text('{"name": "an extension"}')
    assert specexec("rm", str(other), "-y").code == 5
    assert (other / "thesis.txt").exists()
    (store / "notes.txt").unlink()
    assert specexec("rm", str(store), "-y").code == 0
    assert not store.exists()


def test_a_damaged_model_can_be_removed(specexec: Specexec, here: Path) -> None:
    flip(here / "stories-nf4" / "manifest.json", 100)
    assert specexec("rm", "stories-nf4", "-y").code == 0
    assert list(here.iterdir()) == []


def test_a_link_goes_and_what_it_leads_to_stays(specexec: Specexec, here: Path) -> None:
    (here / "linked").symlink_to(here / "stories-nf4")
    ran = specexec("rm", "linked", "-y")
    assert "linked is removed: 0.0 MB free" in ran.err
    assert names(specexec) == ["bundled", "stories-nf4"]


def test_killed_while_it_removes_it_leaves_no_half_model(here: Path) -> None:
    """A real process, which is stopped for good between two files."""
    code = ("import shutil, time; from pathlib import Path; from offload import removal\n"
            "def slow(path):\n    next(path.glob('layer-*')).unlink(); print('now', flush=True); time.sleep(600)\n"
            f"shutil.rmtree = slow; removal.remove(Path({str(here / 'stories-nf4')!r}))")
    child = subprocess.Popen([process.COMMAND[0], "-c", code], stdout=subprocess.PIPE)
    assert process.read_until(child.stdout, b"now") == b"now"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert [path.name for path in here.iterdir() if path.suffix != ".lock"] == ["stories-nf4.removed"]
    ran = process.run("list")
    assert "stories-nf4 " not in ran.stdout
    assert "stories-nf4.removed: unfinished" in ran.stderr
    assert process.run("rm", "--partial", "-y").returncode == 0
    assert list(here.iterdir()) == []


def test_leftovers_go_and_models_stay(specexec: Specexec, here: Path) -> None:
    leave(here, "half-nf4")
    ran = specexec("rm", "--partial", "-y")
    assert (ran.code, ran.out) == (0, "")
    assert "half-nf4.partial is removed: 0.2 MB free" in ran.err
    assert [path.name for path in here.iterdir()] == ["stories-nf4"]
    assert "nothing is left" in specexec("rm", "--partial").err


def test_what_a_conversion_is_at_work_on_stays(specexec: Specexec, here: Path) -> None:
    partial = leave(here, "half-nf4")
    with locked(here / "half-nf4"):
        ran = specexec("rm", "--partial", "-y")
    assert (ran.code, partial.exists()) == (1, True)
    assert "half-nf4.partial stays: another" in ran.err


def test_a_model_that_another_process_is_at_work_on_stays(specexec: Specexec, here: Path) -> None:
    with locked(here / "stories-nf4"):
        ran = specexec("rm", "stories", "-y")
    assert (ran.code, (here / "stories-nf4").exists()) == (1, True)
    assert "is at work on" in ran.err


def test_a_folder_of_that_name_that_is_not_ours_stays(here: Path) -> None:
    foreign = here / "thesis.partial"
    foreign.mkdir()
    (foreign / "chapter.txt").write_text("dear")
    with pytest.raises(removal.Refused, match="not of specexec's making"):
        removal.clear(removal.leftovers(here)[0])
    assert (foreign / "chapter.txt").exists()


def test_verify_without_a_name_reads_all_and_ends_with_what_is_damaged(specexec: Specexec, here: Path) -> None:
    shutil.copytree(here / "stories-nf4", here / "a-damaged-one")
    flip(here / "a-damaged-one" / "layer-002.safetensors", 9_000)
    ran = specexec("verify", "-q")
    assert ran.code == 5
    assert "stories-nf4: 12 files" in ran.out
    assert "layer-002.safetensors differs from its checksum" in ran.err
    assert f"Try: specexec rm {here / 'a-damaged-one'}, then" in ran.err


