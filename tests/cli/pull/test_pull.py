"""`pull` against a server process: what comes, in what order, and what stays."""

import os
import re
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from cli.progress import Progress
from offload.errors import TooLittleMemory
from offload.manifest import read_manifest
from offload.store import Store
from tests.cli.conftest import Specexec
from tests.cli.test_errors import assert_two_lines
from tests.hub import BUNDLED, REPO, Hub, same_files, sharded
from tests.hub_server import commit

pytestmark = pytest.mark.usefixtures("hub")
MIB = 2**20


def weights(of: Path) -> int:
    return sum(path.stat().st_size for path in of.glob("*.safetensors"))


def held(by: Path) -> int:
    """Bytes of the files below a folder. Another thread renames and frees some meanwhile: those count nothing."""
    found = 0
    for folder, _, names in os.walk(by):
        for name in names:
            with suppress(FileNotFoundError):
                found += Path(folder, name).stat().st_size
    return found


def fetched(hub: Hub) -> list[str | None]:
    """Ranges that were asked of weights, but for their headers."""
    return [span for span in hub.asked("/cdn/") if span is None or not span.startswith("bytes=0-")]


def asked_for(hub: Hub, folder: Path, after: int) -> int:
    """Bytes of weights that were asked for beyond the first so many requests."""
    spans = [(request["path"].rpartition("/")[2], request["range"] or "bytes=0") for request in hub.requests[after:]
             if "/cdn/" in request["path"] and not (request["range"] or "").startswith("bytes=0-")]
    return sum((folder / name).stat().st_size - int(re.findall(r"\d+", span)[0]) for name, span in spans)


def test_a_model_comes_and_is_what_convert_makes_of_it(
    hub: Hub, folder: Path, wanted: Path, store: Path, specexec: Specexec
) -> None:
    repo = hub.add(REPO, folder)
    ran = specexec("pull", REPO)
    assert (ran.code, ran.out) == (0, "Tiny-Stories-1B-nf4\n"), ran.err
    assert same_files(store, wanted)
    found = read_manifest(store).identity
    assert (found.source, found.revision, found.quantisation) == (REPO, commit(repo), "nf4")
    assert [path.name for path in store.parent.iterdir()] == [store.name]
    first, second, *_, last = ran.err.splitlines()
    assert re.fullmatch(REPO + r"@\w{7}: 10\.\d MB to fetch, 4\.\d MB kept as nf4; .* MB of disk needed, .* free", first)
    assert re.match("  6 of 6 layers stay in memory; ", second)
    assert last == "specexec chat -m Tiny-Stories-1B-nf4"
    assert specexec("verify", "Tiny-Stories-1B-nf4").code == 0
    assert specexec("run", "-m", "Tiny-Stories-1B-nf4", "-n", "3", "Once").code == 0


def test_only_what_is_needed_is_fetched_and_only_once(hub: Hub, folder: Path, specexec: Specexec) -> None:
    repo = hub.add(REPO, folder)
    for name in ("README.md", "pytorch_model.bin", "modeling_tiny.py", "consolidated.safetensors"):
        (repo / name).write_bytes(b"never opened")
    assert specexec("pull", REPO).code == 0
    paths = [request["path"] for request in hub.requests if "/api/" not in request["path"]]
    asked = {path.rpartition("/")[2].partition("?")[0] for path in paths}
    assert asked == {path.name for path in folder.iterdir()}
    assert len(fetched(hub)) == 4


@pytest.mark.parametrize("by", ["order", "turn"])
def test_the_disk_never_holds_more_than_was_said(
    by: str, hub: Hub, tmp_path: Path, wanted: Path, store: Path, specexec: Specexec, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, sharded(BUNDLED / "target", tmp_path / "shards", 8, by))
    taken, real = [], Progress.advance

    def look(self: Progress, what: str, count: int) -> None:
        taken.append(held(store.with_name(store.name + ".partial")))
        real(self, what, count)

    monkeypatch.setattr(Progress, "advance", look)
    ran = specexec("pull", REPO)
    assert ran.code == 0, ran.err
    room = float(re.findall(r"([\d.]+) MB of disk needed", ran.err)[0]) * 1e6
    assert max(taken) < room + 500_000  # the tokenizer, the journal
    if by == "order":  # the head is made of the first and of the last
        assert max(taken) < 0.8 * (weights(wanted) + weights(BUNDLED / "target"))
    assert same_files(store, wanted)


def press(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Ctrl-C when so many bytes have come."""
    real, came = Progress.advance, [0]

    def advance(self: Progress, what: str, count: int) -> None:
        real(self, what, count)
        before, came[0] = came[0], came[0] + count
        if before < at <= came[0]:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Progress, "advance", advance)


@pytest.mark.parametrize("at", [1, MIB, 4 * MIB, 8 * MIB])
def test_ctrl_c_loses_nothing(
    at: int, hub: Hub, folder: Path, wanted: Path, store: Path, specexec: Specexec, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, folder)
    hub.breaks({"match": "/cdn/", "rate": 10**8})
    with monkeypatch.context() as pressing:
        press(pressing, at)
        ran = specexec("pull", REPO)
    assert (ran.code, ran.out) == (130, "")
    assert "stopped; this goes on: specexec" in ran.err.splitlines()[-1]
    assert not store.exists()
    before = len(hub.requests)
    ran = specexec("pull", REPO)
    assert ran.code == 0
    assert re.search(r"resuming: \d+\.\d MB of 10\.\d MB already here", ran.err)
    assert same_files(store, wanted)
    assert asked_for(hub, folder, before) <= weights(folder) - at


def test_a_commit_that_changes_a_readme_does_not_begin_anew(
    hub: Hub, folder: Path, store: Path, specexec: Specexec, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = hub.add(REPO, folder)
    first = commit(repo)
    with monkeypatch.context() as pressing:
        press(pressing, 6 * MIB)
        assert specexec("pull", REPO).code == 130
    (repo / "README.md").write_text("Better words.")
    assert commit(repo) != first
    assert "resuming" in specexec("pull", REPO).err
    assert read_manifest(store).identity.revision == first
    ran = specexec("pull", REPO)
    assert (ran.code, ran.out) == (0, "Tiny-Stories-1B-nf4\n")
    assert "is there already" in ran.err


def test_weights_that_changed_since_begin_anew(
    hub: Hub, folder: Path, store: Path, specexec: Specexec, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = hub.add(REPO, folder)
    with monkeypatch.context() as pressing:
        press(pressing, 6 * MIB)
        assert specexec("pull", REPO).code == 130
    (repo / "generation_config.json").write_text('{"temperature": 0.5}')
    ran = specexec("pull", REPO)
    assert ran.code == 0
    assert "has changed since its conversion began" in ran.err
    assert Store(store).generation == {"temperature": 0.5}
    assert read_manifest(store).identity.revision == commit(repo)


def test_what_is_there_is_not_written_over(hub: Hub, folder: Path, specexec: Specexec) -> None:
    repo = hub.add(REPO, folder)
    hub.add("other/Tiny-Stories-1B", BUNDLED / "target")
    assert specexec("pull", REPO).code == 0
    assert_two_lines(specexec("pull", "other/Tiny-Stories-1B").err, REPO, "is there already", "--name")
    (repo / "config.json").write_text((repo / "config.json").read_text() + "\n")
    ran = specexec("pull", REPO)
    assert ran.code == 1
    assert_two_lines(ran.err, "is there already", "specexec rm Tiny-Stories-1B-nf4")
    ran = specexec("pull", REPO, "--name", "second", "-q")
    assert (ran.code, ran.out, ran.err) == (0, "second\n", "")


def test_a_format_a_revision_and_their_spellings(hub: Hub, folder: Path, store: Path, specexec: Specexec) -> None:
    repo = hub.add(REPO, folder)
    for number, arguments in enumerate((f"{REPO}@v1:int8", f"hf://{REPO}@{commit(repo)}", f"https://huggingface.co/{REPO}")):
        options = ("--to", "int8", "--revision", "v1") if number == 2 else ("--to", "int8") if number else ()
        assert specexec("pull", arguments, *options).out == "Tiny-Stories-1B-int8\n"
    assert Store(store.with_name("Tiny-Stories-1B-int8")).quant == "int8"
    assert specexec("pull", f"{REPO}:bf16").out == "Tiny-Stories-1B-bf16\n"


def test_a_model_of_one_file_with_a_head_of_its_own(hub: Hub, shared: Path, store: Path, specexec: Specexec) -> None:
    hub.add(REPO, shared / "models" / "stories260k")
    assert specexec("pull", REPO).code == 0
    specexec("convert", str(shared / "models" / "stories260k"), "--name", "same")
    assert same_files(store, store.with_name("same"))


# --- the person's own cache


def snapshot(hub: Hub, tmp_path: Path, folder: Path) -> Path:
    """As huggingface_hub leaves it."""
    repo = hub.add(REPO, folder)
    cache = tmp_path / "cache" / f"models--{REPO.replace('/', '--')}"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit(repo))
    return Path(shutil.copytree(folder, cache / "snapshots" / commit(repo)))


def test_files_of_the_cache_are_used_and_stay(
    hub: Hub, tmp_path: Path, folder: Path, wanted: Path, store: Path, specexec: Specexec
) -> None:
    cached = snapshot(hub, tmp_path, folder)
    (cached / "model-00003-of-00004.safetensors").unlink()
    assert specexec("pull", REPO).code == 0
    assert all("model-00003-of-00004.safetensors" in request["path"] for request in hub.requests if "/cdn/" in request["path"])
    assert same_files(store, wanted)
    assert len(list(cached.iterdir())) == len(list(folder.iterdir())) - 1


def test_a_damaged_file_of_the_cache_is_named_and_stays(
    hub: Hub, tmp_path: Path, folder: Path, specexec: Specexec
) -> None:
    spoilt = snapshot(hub, tmp_path, folder) / "model-00002-of-00004.safetensors"
    content = bytearray(spoilt.read_bytes())
    content[-1] ^= 1
    spoilt.write_bytes(content)
    ran = specexec("pull", REPO)
    assert ran.code == 5
    assert_two_lines("\n".join(ran.err.splitlines()[-2:]) + "\n", str(spoilt), "Try: rm ")
    spoilt.unlink()
    assert specexec("pull", REPO).code == 0


def test_a_source_that_is_kept_serves_another_format(hub: Hub, tmp_path: Path, folder: Path, specexec: Specexec) -> None:
    repo = hub.add(REPO, folder)
    assert specexec("pull", REPO, "--keep-source").code == 0
    kept = tmp_path / "cache" / "models--org--Tiny-Stories-1B" / "snapshots" / commit(repo)
    assert {path.name for path in kept.iterdir()} == {path.name for path in folder.iterdir()}
    before = len(hub.requests)
    assert specexec("pull", f"{REPO}:int8").code == 0
    assert all("/api/" in request["path"] for request in hub.requests[before:])


# --- before the first byte


def test_a_dry_run_leaves_nothing(hub: Hub, tmp_path: Path, folder: Path, specexec: Specexec) -> None:
    hub.add(REPO, folder)
    ran = specexec("pull", REPO, "--dry-run")
    assert ran.code == 0
    assert re.search(r"\n +\d\.\d MB  model-00001-of-00004.safetensors\n", ran.out)
    assert "10.2 MB to fetch" in ran.err
    assert fetched(hub) == []
    assert not (tmp_path / "home").exists() or not list((tmp_path / "home").rglob("*partial*"))


def test_what_cannot_run_here_is_fetched_only_when_told_so(
    hub: Hub, folder: Path, store: Path, specexec: Specexec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(of: object) -> str:
        raise TooLittleMemory("this model needs 21.4GiB of memory at the least.", hint="more")

    hub.add(REPO, folder)
    monkeypatch.setattr("cli.coming.prospect", never)
    ran = specexec("pull", REPO)
    assert ran.code == 1
    assert_two_lines("\n".join(ran.err.splitlines()[-2:]) + "\n", "cannot run here", "needs 21.4GiB", "-y")
    assert fetched(hub) == []
    assert list(store.parent.iterdir()) == []
    assert specexec("pull", REPO, "-y").code == 0


# --- drafts


@pytest.fixture
def kin(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub with a target, the draft of its family, and a model with other tokens."""
    hub.add(REPO, folder)
    hub.add("org/Tiny-Stories-0.1B", BUNDLED / "draft")
    monkeypatch.setattr("cli.kin.KIN", ((r"Tiny-Stories-\d", "org/Tiny-Stories-0.1B"),))
    monkeypatch.setattr("cli.kin.LARGE", 1)
    return hub


def test_a_draft_comes_after_its_target(kin: Hub, store: Path, specexec: Specexec) -> None:
    ran = specexec("pull", REPO, "--draft", "org/Tiny-Stories-0.1B", "-q")
    assert (ran.code, ran.out) == (0, "Tiny-Stories-1B-nf4\nTiny-Stories-0.1B-int8\n")
    weights = [path for request in kin.requests if "/cdn/" in (path := request["path"]) and request["range"] is None]
    assert "0.1B" in weights[-1]
    ran = specexec("run", "-m", store.name, "--draft", "Tiny-Stories-0.1B-int8", "-n", "3", "Once")
    assert ran.code == 0


def test_the_familys_draft_is_offered(kin: Hub, specexec: Specexec) -> None:
    ran = specexec("pull", REPO)
    assert ran.out == "Tiny-Stories-1B-nf4\n"
    assert "specexec pull org/Tiny-Stories-0.1B:int8" in ran.err
    ran = specexec("pull", REPO, "-y")
    assert ran.out == "Tiny-Stories-1B-nf4\nTiny-Stories-0.1B-int8\n"
    assert "Tiny-Stories-1B-nf4 is there already" in ran.err
    assert ran.err.splitlines()[-1] == "specexec chat -m Tiny-Stories-1B-nf4 --draft Tiny-Stories-0.1B-int8"
    ran = specexec("pull", REPO, "-y", "--draft", "none")
    assert ran.out == "Tiny-Stories-1B-nf4\n"


def test_a_draft_with_other_tokens_is_refused_before_anything_comes(kin: Hub, shared: Path, specexec: Specexec) -> None:
    kin.add("org/Other", shared / "models" / "stories260k")
    ran = specexec("pull", REPO, "--draft", "org/Other")
    assert ran.code == 2
    assert_two_lines("\n".join(ran.err.splitlines()[-2:]) + "\n", "disagree at token", "--draft none")
    assert fetched(kin) == []


def test_an_offered_draft_that_cannot_come_is_no_reason_to_stop(kin: Hub, specexec: Specexec) -> None:
    shutil.rmtree(kin.root / "org" / "Tiny-Stories-0.1B")
    ran = specexec("pull", REPO, "-y")
    assert (ran.code, ran.out) == (0, "Tiny-Stories-1B-nf4\n")
    assert "no draft comes with it: there is no repo" in ran.err


def test_a_model_does_not_draft_for_itself(kin: Hub, specexec: Specexec) -> None:
    assert specexec("pull", f"{REPO}:int8", "--draft", REPO).code == 2


# --- a low-bit copy


def test_a_copy_comes_with_the_model_and_is_repaired_with_it(
    hub: Hub, folder: Path, store: Path, tmp_path: Path, specexec: Specexec
) -> None:
    """It is made of the same shards, each of which comes once, and is what convert makes of it."""
    hub.add(REPO, folder)
    ran = specexec("pull", REPO, "--copy", "3bit")
    assert ran.code == 0, ran.err
    assert read_manifest(store).identity.copy == "3bit"
    assert specexec("convert", str(folder), "--copy", "3bit", "--out", str(tmp_path / "made"), "-q").code == 0
    assert same_files(store, tmp_path / "made")
    weight = (store / "copy-003.safetensors").read_bytes()
    (store / "copy-003.safetensors").write_bytes(weight[:-1] + b"x")
    assert_two_lines(specexec("verify", store.name).err, "copy-003.safetensors", "--repair")
    assert specexec("verify", store.name, "--repair").code == 0
    assert (store / "copy-003.safetensors").read_bytes() == weight


def test_a_model_that_is_there_without_a_copy_gets_one_of_convert(
    hub: Hub, folder: Path, store: Path, specexec: Specexec
) -> None:
    hub.add(REPO, folder)
    specexec("pull", REPO, "-q")
    ran = specexec("pull", REPO, "--copy", "3bit")
    assert ran.code == 1
    assert_two_lines(ran.err, "without a copy", f"specexec convert {store.name} --copy 3bit")
    assert specexec("convert", store.name, "--copy", "3bit").code == 0
    assert "is there already" in specexec("pull", REPO, "--copy", "3bit").err


# --- verify --repair


def test_what_is_damaged_is_fetched_and_made_again(
    hub: Hub, folder: Path, wanted: Path, store: Path, specexec: Specexec
) -> None:
    hub.add(REPO, folder)
    assert specexec("pull", REPO).code == 0
    with (store / "layer-002.safetensors").open("r+b") as file:
        file.seek(9000)
        file.write(b"spoilt")
    (store / "tokenizer.json").unlink()
    ran = specexec("verify", store.name)
    assert ran.code == 5
    assert_two_lines(ran.err, "layer-002.safetensors", "tokenizer.json", "2 files", "--repair")
    before = len(fetched(hub))
    ran = specexec("verify", store.name, "--repair")
    assert ran.code == 0, ran.err
    assert len(fetched(hub)) - before <= 2
    assert same_files(store, wanted)
    assert [path.name for path in store.parent.iterdir()] == [store.name]


def test_what_cannot_be_repaired(hub: Hub, folder: Path, store: Path, specexec: Specexec) -> None:
    assert specexec("convert", str(folder)).code == 0
    with (store / "layer-002.safetensors").open("r+b") as file:
        file.write(b"spoilt")
    ran = specexec("verify", store.name, "--repair")
    assert ran.code == 1
    assert_two_lines(ran.err, "was not fetched from the hub", f"specexec convert {folder}")
