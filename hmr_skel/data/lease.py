"""Leases: small files in `.leases/` beside the dataset that say which build is working on a shard.

A build makes the file before it reads the shard's rows, touches it every 15 seconds and removes it at the end. Another
build that finds it skips the shard. It takes over the lease if the lease's process on this machine has ended, or if the
file was not touched for 120 seconds by the clock of the folder, so that clocks of machines are not compared.

In a store, two builds that begin the same shard, or take over the same lease, within the same second may both get it.
This costs only time: a build checks that the lease is still its own before it writes, and reads its files at the end.
"""

import contextlib
import json
import os
import threading
from pathlib import Path
from uuid import uuid4

from hmr_skel.data.atomic import host, is_running
from hmr_skel.data.shards import Shard
from hmr_skel.data.storage import Place, clock, put_bytes, put_new
from hmr_skel.errors import UserError

BEAT_S = 15.0
SILENT_S = 120.0
"""A lease that was not touched for this time, s, is broken."""


class InHand(UserError):
    """Another build is working on the shard."""

    def __init__(self, shard: int, holder: str) -> None:
        super().__init__(f"shard {shard} is in the hands of {holder}. Run this again when it is done.")
        self.shard, self.holder = shard, holder

    def __reduce__(self) -> tuple:  # pickle could not make it again from its text alone
        return type(self), (self.shard, self.holder)


class Lease(contextlib.AbstractContextManager):
    """The time in which this process has a shard in hand: `with Lease(out, shard, build) as lease`.

    `build` names the run that the process works for. It takes over a lease of the same run: the run's scheduler hands a
    shard out again only when the worker that had it is gone. Entering raises `InHand` where another build has it, and
    `UserError` where the folder or the store cannot be written.
    """

    def __init__(self, out: Place, shard: Shard, build: str) -> None:
        self.place = out / ".leases" / f"{shard.number}.json"
        self.shard, self.build = shard, build
        holder = {"host": host(), "process": os.getpid(), "build": build, "lease": uuid4().hex}
        self._content = json.dumps(holder).encode()
        self._done = threading.Event()
        self._beat = threading.Thread(target=self.touch, name=f"lease-{shard.index}", daemon=True)

    def __enter__(self) -> "Lease":
        for _ in range(3):
            if put_new(self.place, self._content):
                self._beat.start()
                return self
            content = self._read()
            if (holder := self._living(content)) is not None:
                raise InHand(self.shard.index, holder)
            if content is not None and self._read() == content:
                self.place.unlink(missing_ok=True)
        raise InHand(self.shard.index, "another build")

    def __exit__(self, *raised: object) -> None:
        self._done.set()
        self._beat.join()
        with contextlib.suppress(OSError, UserError):  # it will be broken later
            if self._read() == self._content:
                self.place.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise `InHand` if another build has taken over the shard, for instance while this machine was asleep."""
        if (content := self._read()) != self._content:
            raise InHand(self.shard.index, self._living(content) or "another build, as this one was silent")

    def touch(self) -> None:
        """Show every `BEAT_S` that the process is alive, until it is done or another build has the shard."""
        while not self._done.wait(BEAT_S):
            with contextlib.suppress(OSError, UserError):  # the disk or the store is away for a moment
                if self._read() != self._content:
                    return
                if isinstance(self.place, Path):
                    os.utime(self.place)  # needs no disk space
                else:
                    put_bytes(self.place, self._content)

    def _read(self) -> bytes | None:
        try:
            return self.place.read_bytes()
        except FileNotFoundError:
            return None

    def _living(self, content: bytes | None) -> str | None:
        """Who holds the lease with this content, in words; None where nobody does any more."""
        named = "another build"
        with contextlib.suppress(ValueError, TypeError, KeyError):  # it is being written at this moment, or is damaged
            holder = json.loads(content or b"")
            named = f"process {holder['process']} on {holder['host']}"
            if holder["build"] == self.build:
                return None
            if holder["host"] == host() and not is_running(holder["process"]):
                return None
        try:
            touched = self.place.stat().st_mtime
        except FileNotFoundError:
            return None
        return None if clock(self.place.parent) - touched > SILENT_S else named
