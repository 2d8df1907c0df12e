"""`plan` of a model that is not here: its configuration comes, nothing else, and what the hub does wrong is two lines."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from cli.group import ALIASES
from specexec.__main__ import ONLINE
from tests.cli.conftest import Specexec
from tests.cli.process import run
from tests.cli.pull.test_pull_faults import BAD, DISABLED, change, ends
from tests.cli.test_plan import LLAMA_1B, LLAMA_70B, measured
from tests.hub import REPO, Hub

__all__ = ["measured"]
LARGE, SMALL = "meta-llama/Llama-3.3-70B-Instruct", "meta-llama/Llama-3.2-1B-Instruct"


@pytest.fixture(autouse=True)
def home(hub: Hub, measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine is unknown."""
    monkeypatch.setenv("SPECEXEC_HOME", str(measured))


def sized(hub: Hub, name: str, folder: Path, config: dict[str, Any], **more: Any) -> None:
    """A repo whose configuration says another size."""
    (hub.add(name, folder, **more) / "config.json").write_text(json.dumps(config))


def fetched(hub: Hub) -> list[str]:
    """Names of the files that were asked for."""
    return [request["path"].rpartition("/")[2] for request in hub.requests if "/api/" not in request["path"]]


def test_the_configuration_alone_comes(hub: Hub, folder: Path, specexec: Specexec, tmp_path: Path) -> None:
    sized(hub, LARGE, folder, LLAMA_70B)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_70B))
    given = ("--ram", "20GiB", "--draft", "none", "--json")
    ran, wanted = specexec("plan", LARGE, *given), specexec("plan", str(tmp_path / "config.json"), *given)
    found, known = json.loads(ran.out), json.loads(wanted.out)
    assert (ran.code, ran.err) == (0, "")
    assert found["fetch_bytes"] == sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    for key in ("ledger", "streamed_bytes", "plain", "model_bytes"):
        assert found[key] == known[key]
    assert set(fetched(hub)) == {"config.json", "model.safetensors.index.json"}
    assert known["fetch_bytes"] == 0


def test_a_person_is_told_what_pull_would_fetch(hub: Hub, folder: Path, specexec: Specexec) -> None:
    sized(hub, LARGE, folder, LLAMA_70B)
    out = specexec("plan", f"hf://{LARGE}@main:int8", "--ram", "30GiB", "--draft", "lookup").out
    assert f"not here: specexec pull {LARGE}@main:int8 fetches " in out
    assert "as int8" in out


def test_the_draft_that_pull_offers_is_in_the_ledger(hub: Hub, folder: Path, specexec: Specexec) -> None:
    sized(hub, LARGE, folder, LLAMA_70B)
    alone = specexec("plan", LARGE, "--ram", "20GiB", "--json")
    assert "no draft is counted: there is no repo" in alone.err
    sized(hub, SMALL, folder, LLAMA_1B)
    found = json.loads(specexec("plan", LARGE, "--ram", "20GiB", "--json").out)
    assert found["draft"] == [f"{SMALL}:int8"]
    named = json.loads(specexec("plan", LARGE, "--ram", "20GiB", "--json", "--draft", f"{SMALL}:int8").out)
    assert named["ledger"] == found["ledger"] != json.loads(alone.out)["ledger"]


ENDS: list[tuple[str, dict[str, Any], int, tuple[str, ...]]] = [
    ("401", {"match": "/api/", "status": 401, "headers": {"X-Error-Message": BAD}}, 1, ("does not let", "HF_TOKEN")),
    ("403", {"match": "/api/", "status": 403}, 1, ("does not let", "HF_TOKEN")),
    ("disabled", {"match": "/api/", "status": 403, "headers": {"X-Error-Message": DISABLED}}, 1, ("disabled",)),
    ("429", {"match": "/api/", "status": 429, "headers": {"Retry-After": "3600"}}, 4, ("limits", "in 3600 s")),
    ("503", {"match": "/api/", "status": 503}, 4, ("answers 503", "later")),
    ("cut", {"match": "config.json", "cut": 0}, 4, ("cannot be reached", "which goes on")),
    ("checksum", {"match": "config.json", "flip": 9}, 5, ("config.json", "checksum")),
    ("gone", {"match": "config.json", "status": 404, "code": "EntryNotFound"}, 4, ("lacks a file",)),
    ("a page", {"match": "/api/", "status": 200, "body": "<html>"}, 4, ("does not answer as the hub",)),
]


@pytest.mark.parametrize(("fault", "code", "words"), [entry[1:] for entry in ENDS], ids=[entry[0] for entry in ENDS])
def test_what_the_hub_does_wrong_ends_in_two_lines(
    fault: dict[str, Any], code: int, words: tuple[str, ...], hub: Hub, folder: Path, specexec: Specexec
) -> None:
    hub.add(REPO, folder)
    hub.breaks(fault)
    ends(specexec("plan", REPO), code, *words)


def test_a_licence_is_accepted_first(hub: Hub, folder: Path, specexec: Specexec, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPO, folder, gated="hf_good")
    ends(specexec("plan", REPO), 1, "needs its licence accepted", f"{hub.url}/{REPO}", "set HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert specexec("plan", REPO, "--draft", "none").code == 0


@pytest.mark.parametrize(("name", "code", "words"), [
    ("nobody/nothing", 4, ("there is no repo nobody/nothing",)), (f"{REPO}@elsewhere", 4, ('no revision "elsewhere"',)),
    ("nothing", 4, ('no model "nothing" here', "specexec pull ORG/NAME")), ("./org/name", 4, ("./org/name",)),
    (f"{REPO}:nf4 --to int8", 2, ("contradict",)), (f"{REPO}@q4_k_m", 2, (":nf4",)),
])
def test_what_is_no_model_of_the_hub(
    name: str, code: int, words: tuple[str, ...], hub: Hub, folder: Path, specexec: Specexec
) -> None:
    hub.add(REPO, folder)
    words = tuple(word.removeprefix("./") for word in words)
    ends(specexec("plan", *name.split()), code, *words)


def test_a_folder_of_that_name_is_named_and_nobody_asked(
    hub: Hub, folder: Path, specexec: Specexec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, folder)
    (tmp_path / REPO).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    ends(specexec("plan", REPO), 4, f"./{REPO}, the folder")
    assert hub.requests == []


def test_a_repo_of_no_use_is_refused(hub: Hub, folder: Path, specexec: Specexec) -> None:
    change(hub.add(REPO, folder) / "config.json", model_type="gpt2")
    (hub.add("org/empty", folder) / "config.json").unlink()
    ends(specexec("plan", REPO), 1, '"gpt2"')
    ends(specexec("plan", "org/empty"), 1, "has no config.json")


# --- offline


@pytest.mark.parametrize("command", [("plan", REPO), ("pull", REPO), ("verify", "--repair")])
def test_offline_nobody_is_asked(
    command: tuple[str, ...], hub: Hub, folder: Path, specexec: Specexec, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, folder)
    ends(specexec(*command, "--offline"), 4, "needs the network, and --offline is set", "specexec list")
    monkeypatch.setenv("SPECEXEC_OFFLINE", "1")
    ends(specexec(*command), 4, "needs the network", "specexec list")
    monkeypatch.delenv("SPECEXEC_OFFLINE")
    assert specexec("plan", "bundled", "--offline").code == 0
    if command[0] != "verify":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        ends(specexec(*command), 4, "HF_HUB_OFFLINE is set", "specexec list")
    assert hub.requests == []


def test_commands_that_may_ask_are_known_by_all_their_names() -> None:
    assert set(ONLINE) == {"pull", "plan", *(alias for alias, name in ALIASES.items() if name in ("pull", "plan"))}


def test_a_process_asks_too(hub: Hub, folder: Path, measured: Path, tmp_path: Path) -> None:
    hub.add(REPO, folder)
    env = hub.environment(tmp_path, SPECEXEC_HOME=str(measured))
    assert "not here: specexec pull" in run("plan", REPO, "--draft", "none", env=env).stdout
    refused = run("plan", REPO, env=env | {"HF_HUB_OFFLINE": "1"})
    assert refused.returncode == 4
    assert "HF_HUB_OFFLINE is set" in refused.stderr
