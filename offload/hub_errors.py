"""What the hub answers, or does not, becomes two lines."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn
from urllib.parse import urlsplit

from httpx2 import InvalidURL, RequestError, UnsupportedProtocol
from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from offload.errors import NotHere, OffloadError, Refused
from offload.patience import Patience

PASSING = (408, 429, 500, 502, 503, 504)  # statuses that another attempt may not meet
GOES_ON = "the same command, which goes on from there"


class Unreachable(OffloadError):
    """The network or the hub, not the person, is in the way."""

    exit_code = 4


def check_online(offline: bool) -> None:
    """Raises Unreachable where the person wants no network. huggingface_hub's own variable is its own to respect."""
    if offline:
        raise Unreachable("this needs the network, and --offline is set.", hint="specexec list, or the same without --offline")


@contextmanager
def explained(repo: str, revision: str | None, patience: Patience) -> Iterator[None]:
    """Returns, for another attempt, where a failure may pass; raises OffloadError for every other."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        what = "this needs the network, and HF_HUB_OFFLINE is set."
        raise Unreachable(what, hint="HF_HUB_OFFLINE=0 before the same command, or specexec list") from error
    except (UnsupportedProtocol, InvalidURL) as error:
        what = f'HF_ENDPOINT is "{constants.ENDPOINT}", no address.'
        raise Unreachable(what, hint="HF_ENDPOINT=https://huggingface.co") from error
    except HfHubHTTPError as error:
        if not (error.response.status_code in PASSING and patience.wait(f"{host()} {_said(error)}", _wished(error))):
            _refuse(repo, revision, error)
    except RequestError as error:
        if not patience.wait(f"the connection to {host()} was lost"):
            raise Unreachable(f"{host()} cannot be reached: {error}.", hint=GOES_ON) from error


def host() -> str:
    return urlsplit(constants.ENDPOINT).netloc


def _refuse(repo: str, revision: str | None, error: HfHubHTTPError) -> NoReturn:
    page, status = f"{constants.ENDPOINT}/{repo}", error.response.status_code
    match error:
        case GatedRepoError():
            licence = f"accept it at {page}, then " + ("the same command" if get_token() else "set HF_TOKEN")
            raise Refused(f"{repo} needs its licence accepted by your account.", hint=licence) from error
        case DisabledRepoError():
            raise Refused(f"{repo} has been disabled by the hub.", hint="another copy of the model") from error
        case RevisionNotFoundError():
            hint = f"{repo} without it, or a revision of {page}/commits"
            raise NotHere(f'{repo} has no revision "{revision}".', hint=hint) from error
        case EntryNotFoundError():
            raise NotHere(f"{repo} lacks a file that it lists.", hint="the same command again") from error
        case RepositoryNotFoundError():
            private = "" if get_token() else "; a private one needs HF_TOKEN"
            hint = f"a name that {constants.ENDPOINT}/models finds"
            raise NotHere(f"there is no repo {repo} at {host()}{private}.", hint=hint) from error
    if status in (401, 403):
        raise Refused(f"{host()} does not let this account read {repo} ({status}).", hint="another HF_TOKEN") from error
    if status == 429:
        wished = _wished(error)
        hint = f"the same command {f'in {wished:.0f} s' if wished else 'later'}; HF_TOKEN raises the limit"
        raise Unreachable(f"{host()} limits how often it may be asked.", hint=hint) from error
    raise Unreachable(f"{host()} {_said(error)}.", hint="the same command later") from error


def _said(error: HfHubHTTPError) -> str:
    return f"answers {error.response.status_code}"


def _wished(error: HfHubHTTPError) -> float | None:
    """Seconds that the server asks to be left alone."""
    said = error.response.headers.get("Retry-After", "")
    return float(said) if said.isdecimal() else None
