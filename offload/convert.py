"""Conversion: file by file beside its place, gone on with where it was stopped, and in its place only when it is whole."""

import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from offload.blueprint import Blueprint, File, Watcher
from offload.errors import OffloadError, Refused
from offload.journal import Partial
from offload.lock import locked
from offload.manifest import NAME, Entry, Identity, Manifest, is_store, read_manifest
from offload.sheet import workers
from offload.size import size
from offload.writing import FULL, NoRoom, entry_of, settle, write

SPARE = 2**20  # bytes for the manifest and the journal
PAGE = 4096


def convert(blueprint: Blueprint, out: Path, watcher: Watcher) -> int:
    """Makes the store at `out`, or what it lacks: a low-bit copy. Returns bytes; 0: all was there, of the same source and kind.

    Killed at any moment, the same call goes on and ends in the same bytes. Raises Refused for an `out` that is something
    else or that another process is at work on, NoRoom, and what reading the source raises.
    """
    out = out.resolve()
    with two_lines(out, blueprint.nbytes):
        if _left(blueprint, out) is None and not Partial(out).is_left_of(blueprint.identity):
            return 0
        with locked(out):
            return make(blueprint, out, watcher)


def make(blueprint: Blueprint, out: Path, watcher: Watcher) -> int:
    """`convert` for who holds the lock of `out`, an absolute path; also raises OSError."""
    partial = Partial(out)
    partial.open()
    left = _left(blueprint, out)  # who held the lock before may have made it
    if left is not None:
        _place(Manifest(left.identity, left.matrices, _make(left, partial, watcher)), partial, out)
    partial.remove()
    return left.nbytes if left else 0


def _left(blueprint: Blueprint, out: Path) -> Blueprint | None:
    """What there is to make; None where all of it is there. Raises Refused for an `out` that is something else."""
    found, wanted = _found(out), blueprint.identity
    if found is None:
        return blueprint
    if isinstance(found, Manifest) and found.identity.lacks_copy(wanted):
        return replace(blueprint, files=tuple(file for file in blueprint.files if file.name not in found.files))
    if isinstance(found, Manifest) and found.identity.holds(wanted):
        return None
    what = f"{found.identity.source} as {_what(found.identity)}" if isinstance(found, Manifest) else found
    raise Refused(f"{out} is there already: {what}.", hint=f"--out PATH for another place, or: rm -r {out}")


def _place(made: Manifest, partial: Partial, out: Path) -> None:
    """The store where it is wanted; or what a store there lacked beside its files, which its manifest names last."""
    if is_store(out):
        for name in made.files:
            (partial.store / name).rename(out / name)
        settle(out)
        write(out / NAME, [made.with_files({**read_manifest(out).files, **made.files}).text()])
    else:
        write(partial.store / NAME, [made.with_files(made.files).text()])
        partial.store.rename(out)
    settle(out.parent)


def _found(out: Path) -> Manifest | str | None:
    """What is at `out`: a store, something else, or nothing (an empty folder is as good as none)."""
    if is_store(out):
        try:
            return read_manifest(out)
        except OffloadError:
            return "a store whose manifest is damaged or newer"
    if out.is_dir():
        return "a folder that is no store" if any(out.iterdir()) else None
    return "no folder" if out.exists() else None


def _make(blueprint: Blueprint, partial: Partial, watcher: Watcher) -> Mapping[str, Entry]:
    entries = _resume(blueprint, partial, watcher)
    missing = [file for file in blueprint.files if file.name not in entries]
    _check_room(missing, partial.path)
    watcher.work({name: entry.nbytes for name, entry in entries.items()}, blueprint.nbytes)
    with workers() as pool:
        for file in missing:
            entries[file.name] = _file(file, partial.store, pool, watcher)
            blueprint.check(file.name)
            partial.note(file.name, entries[file.name])
    return entries


def _file(file: File, folder: Path, pool: ThreadPoolExecutor, watcher: Watcher) -> Entry:
    return write(folder / file.name, file.pieces(pool), lambda count: watcher.advance(file.name, count))


def _resume(blueprint: Blueprint, partial: Partial, watcher: Watcher) -> dict[str, Entry]:
    """The files that are whole already, read again to be sure; none where there is nothing to go on with."""
    begun, entries = partial.read()
    wanted = blueprint.identity
    if begun and _kept_as(begun) != _kept_as(wanted):
        raise Refused(f"{partial.path} is an unfinished conversion of {begun.source} to {_what(begun)}.",
                      hint=f"finish that one, --out PATH for this one, or: rm -r {partial.path}")
    if begun != wanted:
        if begun:
            watcher.say(f"{wanted.source} has changed since its conversion began, which begins anew")
        partial.begin(wanted)
        return {}
    return _kept(entries, blueprint, partial.store, watcher)


def _kept_as(of: Identity) -> tuple[str | None, ...]:
    return of.source, of.quantisation, of.layout, of.copy


def _what(identity: Identity) -> str:
    layout = f" in {identity.layout}" if identity.layout else ""
    return identity.quantisation + layout + (f", with a {identity.copy} copy" if identity.copy else "")


def _kept(entries: Mapping[str, Entry], blueprint: Blueprint, folder: Path, watcher: Watcher) -> dict[str, Entry]:
    """Those of the entries whose files are as they say; all other files are removed."""
    watcher.begin(sum(entry.nbytes for entry in entries.values()), 0)
    names = {file.name for file in blueprint.files} & entries.keys()
    kept = {name: entries[name] for name in sorted(names) if _is_whole(folder / name, entries[name], watcher)}
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()
    return kept


def _is_whole(path: Path, entry: Entry, watcher: Watcher) -> bool:
    try:
        return entry_of(path, lambda count: watcher.advance(f"checking {path.name}", count)) == entry
    except FileNotFoundError:
        return False


def _check_room(files: list[File], folder: Path) -> None:
    needed, free = sum(file.nbytes + PAGE for file in files) + SPARE, shutil.disk_usage(folder).free
    if needed > free:
        raise NoRoom(f"{size(needed)} is needed at {folder.parent}, and {size(free)} is free.",
                     hint=f"free {size(needed - free)}, or --out PATH on another disk")


@contextmanager
def two_lines(out: Path, total: int = 0) -> Iterator[None]:
    """What a disk refuses becomes an OffloadError. total: bytes of the store, where they are known."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            here = sum(entry.nbytes for entry in Partial(out).read()[1].values())
            at, more = (f" at {size(here)} of {size(total)}", size(total - here)) if total else ("", "some of it")
            hint = f"free {more}, then the same command goes on"
            raise NoRoom(f"the disk is full{at}; nothing is lost.", hint=hint) from error
        what = f"{error.filename or out}: {error.strerror or error}."
        raise OffloadError(what, hint="a folder that can be written: --out PATH, or SPECEXEC_HOME=PATH") from error


