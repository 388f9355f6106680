"""Which build has a shard in hand: a lease, a small file for each shard at work, in `.leases/` beside the dataset.

A build makes the file before it reads the shard's rows, touches it every 15 seconds and removes it at the end. Another
build that finds it leaves the shard alone. A lease is broken when its process has ended (one of the same host name,
boot and container), or when it was not touched for 120 seconds. The folder's clock decides, so clocks of machines are
never compared.

In a folder the file is made in one step, and one build gets it. A store has no such step: two builds that begin the
same shard within the same second may both fit it. So may two that break the same lease at once. This costs time and
nothing else: before a build writes, and before it writes the meta file, it looks whether the lease is still its own.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Generator
from pathlib import Path
from uuid import uuid4

from hmr_skel.data.atomic import is_running
from hmr_skel.data.shards import Shard
from hmr_skel.data.storage import Place, clock, put_bytes, put_new
from hmr_skel.errors import UserError

BEAT_S = 15.0
SILENT_S = 120.0
"""A lease that was not touched for so long is broken."""


class InHand(UserError):
    """Another build has the shard in hand."""

    def __init__(self, shard: int, holder: str) -> None:
        super().__init__(f"shard {shard} is in the hands of {holder}. Run this again when it is done.")
        self.shard, self.holder = shard, holder

    def __reduce__(self) -> tuple:  # by its text alone, pickle could not make it again
        return type(self), (self.shard, self.holder)


@contextlib.contextmanager
def leased(out: Place, shard: Shard, build: str) -> Generator["Lease"]:
    """The time in which this process has the shard in hand.

    `build` names the run that the process works for. It takes over a lease of the same run: who shares out the shards
    of a run hands one out again only when the worker that had it is gone.

    Raises `InHand` where another build has it, and `UserError` where the folder or the store cannot be written.
    """
    lease = Lease(out, shard, build)
    lease.take()
    done = threading.Event()
    beat = threading.Thread(target=lease.touch_until, args=(done,), name=f"lease-{shard.index}", daemon=True)
    beat.start()
    try:
        yield lease
    finally:
        done.set()
        beat.join()
        with contextlib.suppress(OSError, UserError):  # it will count as broken
            lease.release()


class Lease:
    """See `leased`."""

    def __init__(self, out: Place, shard: Shard, build: str) -> None:
        self.place = out / ".leases" / f"{shard.number}.json"
        self.shard = shard
        self.build = build
        self.broken = False
        """Whether a process left the shard without a word, and this one has taken it over."""
        holder = {"process": os.getpid(), "build": build, "lease": uuid4().hex}
        self._content = json.dumps(_here() | holder).encode()
        self._beat = _now()

    def take(self) -> None:
        """Make the file. Raises `InHand` where another build has it."""
        for _ in range(3):
            self._beat = _now()
            if put_new(self.place, self._content):
                return
            content = self._read()
            if (holder := self._living(content)) is not None:
                raise InHand(self.shard.index, holder)
            if content is not None and self._read() == content:
                self.broken = True
                self.place.unlink(missing_ok=True)
        raise InHand(self.shard.index, "another build")

    def check(self) -> None:
        """Raise `InHand` where another build has taken the shard over, or may have, as when this machine was asleep."""
        content = self._read()
        if content != self._content or self._is_silent():
            raise InHand(
                self.shard.index, self._living(content) or "another build, as this one was silent for too long"
            )

    def touch_until(self, done: threading.Event) -> None:
        """Show every `BEAT_S` that the process is alive. After `SILENT_S` of silence the lease may be another's."""
        while not (done.wait(BEAT_S) or self._is_silent()):
            with contextlib.suppress(OSError, UserError):  # the disk or the store is away for a moment
                start = _now()
                if self._read() != self._content:
                    continue
                if isinstance(self.place, Path):
                    os.utime(self.place)  # needs no room on the disk, and gives nobody's lease another content
                elif not self._is_silent():  # reading took its time
                    put_bytes(self.place, self._content)
                else:
                    continue
                self._beat = start

    def release(self) -> None:
        """Remove the file, if it is still this process's."""
        if self._read() == self._content:
            self.place.unlink(missing_ok=True)

    def _is_silent(self) -> bool:
        return _now() - self._beat > SILENT_S

    def _read(self) -> bytes | None:
        try:
            return self.place.read_bytes()
        except FileNotFoundError:
            return None

    def _living(self, content: bytes | None) -> str | None:
        """Who holds the lease with this content, in words; None where nobody does any more."""
        try:
            holder = json.loads(content or b"")
            named = f"process {holder['process']} on {holder['host']}"
            if holder["build"] == self.build:
                return None
            if holder | _here() == holder and not is_running(holder["process"]):
                return None
        except (ValueError, TypeError, KeyError):  # it is being written at this moment, or it is damaged
            named = "another build"
        try:
            touched = self.place.stat().st_mtime
        except FileNotFoundError:
            return None
        return None if clock(self.place.parent) - touched > SILENT_S else named


def _now() -> float:
    """Seconds of this machine's clock that only runs forward; where the system has one, the one that runs in sleep."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _here() -> dict[str, str]:
    """Where this process's number means this process: the machine, since it was started, and of it the container.

    Containers and images of machines may share a host name. Empty is what the system does not say.
    """
    here = {"host": socket.gethostname(), "boot": "", "processes": ""}
    with contextlib.suppress(OSError):
        here["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        here["processes"] = os.readlink("/proc/self/ns/pid")
    return here
