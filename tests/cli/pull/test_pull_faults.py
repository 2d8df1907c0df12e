"""What a hub, a network or a disk does wrong: it passes, or it ends in two lines and the same command goes on later."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from offload.hub import look
from tests.cli.conftest import Ran, Specexec
from tests.cli.test_errors import assert_two_lines
from tests.hub import BUNDLED, REPO, Hub, same_files

MIB = 2**20
SECOND = "cdn/model-00002"
DISABLED, BAD = "Access to this resource is disabled.", "Invalid credentials in Authorization header"  # as the hub words them


def ends(ran: Ran, code: int, *words: str) -> None:
    """In two lines, the last ones."""
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert_two_lines("\n".join(ran.err.splitlines()[-2:]) + "\n", *words)


# --- what passes

PASSES: list[tuple[str, dict[str, Any]]] = [
    ("cut", {"match": "/cdn/", "cut": 700_000}),
    ("cut at once", {"match": SECOND, "cut": 0, "times": 3}),
    ("whole instead of a part", {"match": SECOND, "cut": MIB, "whole": True, "times": 1}),
    ("another part", {"match": SECOND, "shift": 7, "cut": MIB, "times": 3}),
    ("503", {"match": SECOND, "status": 503, "times": 3}),
    ("500 of the list", {"match": "/api/", "status": 500, "times": 2}),
    ("429", {"match": SECOND, "status": 429, "headers": {"Retry-After": "7"}, "times": 2}),
    ("a byte flipped once", {"match": SECOND, "flip": 200_000, "times": 2}),
]


@pytest.mark.parametrize("fault", [fault for _, fault in PASSES], ids=[name for name, _ in PASSES])
def test_what_passes_is_waited_for(
    fault: dict[str, Any], hub: Hub, folder: Path, wanted: Path, store: Path, waits: list[float], specexec: Specexec
) -> None:
    hub.add(REPO, folder)
    hub.breaks(fault)
    ran = specexec("pull", REPO)
    assert ran.code == 0, ran.err
    assert same_files(store, wanted)
    if fault.get("status") == 429:
        assert waits == [7.0, 7.0]
        assert "answers 429; trying again in 7 s" in ran.err


def test_a_body_that_is_cut_goes_on_where_it_was(hub: Hub, folder: Path, specexec: Specexec) -> None:
    hub.add(REPO, folder)
    hub.breaks({"match": SECOND, "cut": MIB, "times": 2})
    assert specexec("pull", REPO).code == 0
    spans = [span for span in hub.asked(SECOND) if span is None or not span.startswith("bytes=0-")]
    assert spans[0] is None
    assert all(span == f"bytes={MIB}-" for span in spans[1:])


def test_a_server_that_sends_the_whole_file_again_is_believed(
    hub: Hub, folder: Path, wanted: Path, store: Path, specexec: Specexec
) -> None:
    hub.add(REPO, folder)
    hub.breaks({"match": SECOND, "cut": MIB, "times": 2}, {"match": SECOND, "whole": True})
    assert specexec("pull", REPO).code == 0
    assert f"bytes={MIB}-" in hub.asked(SECOND)
    assert same_files(store, wanted)


# --- what does not

ENDS: list[tuple[str, dict[str, Any], int, tuple[str, ...]]] = [
    ("cut for ever", {"match": SECOND, "cut": 0}, 4, ("cannot be reached", "which goes on")),
    ("cut at the same byte", {"match": SECOND, "cut": MIB, "whole": True}, 4, ("cannot be reached", "which goes on")),
    ("503 for ever", {"match": SECOND, "status": 503}, 4, ("answers 503", "the same command later")),
    ("418", {"match": SECOND, "status": 418}, 4, ("answers 418",)),
    ("429 for long", {"match": "/api/", "status": 429, "headers": {"Retry-After": "3600"}}, 4, ("limits", "in 3600 s")),
    ("429 for long in a file", {"match": SECOND, "status": 429, "headers": {"Retry-After": "900"}}, 4, ("limits", "HF_TOKEN")),
    ("a wrong checksum", {"match": SECOND, "flip": 200_000}, 5, ("model-00002-of-00004.safetensors", "checksum", "again")),
    ("a wrong checksum of a small file", {"match": "tokenizer.json", "flip": 9}, 5, ("tokenizer.json", "checksum")),
    ("a page of somebody's", {"match": "/api/", "status": 200, "body": "<html>"}, 4, ("does not answer as the hub",)),
    ("a file that is gone", {"match": "tokenizer.json", "status": 404, "code": "EntryNotFound"}, 4, ("lacks a file",)),
    ("disabled", {"match": "/api/", "status": 403, "headers": {"X-Error-Message": DISABLED}}, 1, ("disabled",)),
    ("forbidden", {"match": "/api/", "status": 403}, 1, ("does not let", "HF_TOKEN")),
    ("a bad token", {"match": "/api/", "status": 401, "headers": {"X-Error-Message": BAD}}, 1, ("not let", "HF_TOKEN")),
]


@pytest.mark.parametrize(("fault", "code", "words"), [entry[1:] for entry in ENDS], ids=[entry[0] for entry in ENDS])
def test_what_does_not_pass_ends_in_two_lines_and_goes_on_later(
    fault: dict[str, Any], code: int, words: tuple[str, ...], hub: Hub, folder: Path, wanted: Path, store: Path,
    specexec: Specexec
) -> None:
    hub.add(REPO, folder)
    hub.breaks(fault)
    ends(specexec("pull", REPO), code, *words)
    assert not store.exists()
    hub.breaks()
    if fault["match"] == SECOND:
        assert specexec("pull", REPO).code == 0
        assert same_files(store, wanted)


def test_a_header_that_is_not_that_of_the_file_is_noticed(hub: Hub, folder: Path, tmp_path: Path, specexec: Specexec) -> None:
    """Two matrices of one shape exchange their names in what is sent first."""
    hub.add(REPO, folder)
    name = "model-00002-of-00004.safetensors"
    keys, values, between = b"self_attn.k_proj", b"self_attn.v_proj", b"self_attn.?_proj"
    content = (folder / name).read_bytes()
    assert keys in content
    swapped = content.replace(keys, between).replace(values, keys).replace(between, values)
    (tmp_path / "swapped").write_bytes(swapped)
    hub.breaks({"match": SECOND, "instead": str(tmp_path / "swapped"), "times": 1})
    ends(specexec("pull", REPO), 5, name, "is not what its first bytes were")


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (("nobody/nothing",), 4, ("there is no repo nobody/nothing", "HF_TOKEN")),
    ((f"{REPO}@elsewhere",), 4, ('no revision "elsewhere"', f"{REPO} without it")),
    ((REPO, "--revision", "elsewhere"), 4, ("no revision",)),
    (("Tiny",), 2, ("no name of a model", "specexec pull ")),
    (("./Tiny",), 2, ("is a path", "specexec convert ./Tiny")),
    ((f"{REPO}@q4_k_m",), 2, (f"specexec pull {REPO}:nf4",)),
    ((f"{REPO}:Q8_0",), 2, (f"specexec pull {REPO}:int8",)),
    ((f"{REPO}:main",), 2, (f"{REPO}@REV",)),
    ((f"{REPO}:nf4", "--to", "int8"), 2, ("contradict",)),
    ((f"{REPO}@v1", "--revision", "main"), 2, ("contradict",)),
    (("org/..",), 2, ("no name of a model",)),
    ((), 2, ("REPO",)),
    ((REPO, "--token", "hf_x"), 2, ("--token",)),
    ((REPO, "--name", "../x"), 1, ("cannot be the name",)),
])
def test_a_wrong_command_says_what_to_type(
    arguments: tuple[str, ...], code: int, words: tuple[str, ...], hub: Hub, folder: Path, specexec: Specexec
) -> None:
    hub.add(REPO, folder)
    ends(specexec("pull", *arguments), code, *words)


def test_the_stored_login_is_heard(hub: Hub, folder: Path, tmp_path: Path, specexec: Specexec) -> None:
    hub.add(REPO, folder, gated="hf_good")
    (tmp_path / "token").write_text("hf_good\n")
    assert specexec("pull", REPO).code == 0


def test_a_licence_is_accepted_on_the_models_page(
    hub: Hub, folder: Path, specexec: Specexec, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, folder, gated="hf_good")
    ends(specexec("pull", REPO), 1, "needs its licence accepted", f"{hub.url}/{REPO}", "set HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    ends(specexec("pull", REPO), 1, "needs its licence accepted", "then the same command")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    ran = specexec("pull", REPO)
    assert ran.code == 0
    assert "hf_good" not in ran.err
    assert {request["token"] for request in hub.requests if "/cdn/" in request["path"]} == {None}, "the token left the hub"


def test_offline(hub: Hub, folder: Path, specexec: Specexec, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPO, folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    ends(specexec("pull", REPO), 4, "HF_HUB_OFFLINE is set", "HF_HUB_OFFLINE=0")
    assert hub.requests == []


@pytest.mark.parametrize(("address", "words"), [
    ("http://127.0.0.1:9", ("127.0.0.1:9 cannot be reached",)), ("nonsense", ("no address", "HF_ENDPOINT=https")),
    ("http://[::bad", ("no address",)),
])
def test_an_endpoint_that_is_none(
    address: str, words: tuple[str, ...], hub: Hub, specexec: Specexec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", address)
    ends(specexec("pull", REPO), 4, *words)


# --- repos that are refused


def change(path: Path, **entries: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


REFUSED = {
    "pickle": (1, ("pytorch_model.bin", "pickle", "safetensors")),
    "gguf": (1, ("model-q4.gguf", "llama.cpp")),
    "nothing": (1, ("model.safetensors",)),
    "no tokenizer": (1, ("tokenizer.json",)),
    "no config": (1, ("config.json",)),
    "remote code": (1, ("code of its own",)),
    "architecture": (1, ('"gpt2"',)),
    "broken config": (5, ("config.json cannot be read",)),
    "quantised": (1, ("qweight",)),
    "an index that leaves": (1, ("../../x.safetensors", "no file of it")),
    "an absolute index": (1, ("/etc/passwd", "no file of it")),
    "an index of nothing": (5, ("names no weights",)),
    "a missing shard": (1, ("model-00009-of-00004.safetensors",)),
    "no header": (5, ("model-00001-of-00004.safetensors", "broken at byte 0")),
    "a missing layer": (5, ("lacks",)),
}


def spoil(repo: Path, how: str) -> None:
    index = repo / "model.safetensors.index.json"
    first = "model-00001-of-00004.safetensors"
    match how:
        case "pickle" | "gguf" | "nothing":
            for path in [*repo.glob("*.safetensors"), index]:
                path.unlink()
            if how != "nothing":
                (repo / {"pickle": "pytorch_model.bin", "gguf": "model-q4.gguf"}[how]).write_bytes(b"x")
        case "no tokenizer":
            (repo / "tokenizer.json").unlink()
        case "no config":
            (repo / "config.json").unlink()
        case "remote code":
            change(repo / "config.json", auto_map={"AutoModelForCausalLM": "modeling_x.X"})
        case "architecture":
            change(repo / "config.json", model_type="gpt2")
        case "broken config":
            (repo / "config.json").write_text("{")
        case "quantised":
            (repo / first).write_bytes(renamed((repo / first).read_bytes()))
        case "an index that leaves":
            change(index, weight_map={"a": "../../x.safetensors"})
        case "an absolute index":
            change(index, weight_map={"a": "/etc/passwd"})
        case "an index of nothing":
            change(index, weight_map=[])
        case "a missing shard":
            change(index, weight_map={"a": "model-00009-of-00004.safetensors"})
        case "no header":
            (repo / first).write_bytes(b"\xff" * 5000)
        case "a missing layer":
            change(index, weight_map={"a": first})


def renamed(content: bytes) -> bytes:
    """A matrix under a name of other tools' formats."""
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].replace(b"q_proj.weight", b"q_proj.qweight", 1).rstrip()
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


@pytest.mark.parametrize("how", REFUSED)
def test_a_repo_of_no_use_is_refused_before_its_weights_come(
    how: str, hub: Hub, folder: Path, store: Path, specexec: Specexec
) -> None:
    code, words = REFUSED[how]
    spoil(hub.add(REPO, folder), how)
    ends(specexec("pull", REPO), code, *words)
    assert all(span and span.startswith("bytes=0-") for span in hub.asked("/cdn/"))
    assert not store.parent.exists() or list(store.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["../../x.safetensors", "/etc/x.safetensors", "..\\x.safetensors", "a/b.safetensors", "..",
                                  "config.json/../../x", "x\0.safetensors", "tokenizer.json\n"])
def test_hostile_names_are_never_paths(
    name: str, hub: Hub, tmp_path: Path, folder: Path, store: Path, specexec: Specexec
) -> None:
    hub.add(REPO, folder, extra=[{"rfilename": name, "size": 5, "blobId": "0" * 40}])
    before = {path for path in tmp_path.rglob("*") if "home" not in path.parts}
    assert specexec("pull", REPO).code == 0
    assert {path for path in tmp_path.rglob("*") if "home" not in path.parts} == before
    assert [path.name for path in store.parent.iterdir()] == [store.name]


# --- disks


def test_too_small_a_disk_is_said_first(hub: Hub, folder: Path, specexec: Specexec, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPO, folder)
    monkeypatch.setattr("cli.coming.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 6 * 10**6))
    ends(specexec("pull", REPO), 3, "needs", "6.0 MB is free", "free ")
    assert not [span for span in hub.asked("/cdn/") if span is None]


def test_small_files_are_known_by_the_hash_that_git_gives_them(hub: Hub) -> None:
    """The server's own lists are right: git's sha1 of small files."""
    repo = hub.add(REPO, BUNDLED / "draft")
    said = subprocess.run(["git", "hash-object", "config.json"], cwd=repo, capture_output=True, text=True).stdout.strip()
    assert look(REPO, None).files["config.json"].digest == said
