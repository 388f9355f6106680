"""Ctrl-C and SIGTERM (a job scheduler's notice) as a question that the loop asks between two steps."""

import signal
from types import FrameType, TracebackType


class StopSignal:
    """While in a `with` block, the first signal is only noted; a second Ctrl-C ends the process at once."""

    def __init__(self) -> None:
        self.signalled = False
        self._number = 0
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> "StopSignal":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def leave(self) -> None:
        """End as the signal wants it: KeyboardInterrupt for Ctrl-C, else exit status 143."""
        if self._number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signalled and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signalled, self._number = True, number
