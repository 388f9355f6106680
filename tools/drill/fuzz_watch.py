"""What a reader does beside reading its input: events of Python's audit hook."""

import contextlib
import os
import site
import sys
import sysconfig
import tempfile
from collections.abc import Generator
from pathlib import Path

import hmr_skel

_FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "socket.bind",
    "ctypes.dlopen", "pty.spawn", "webbrowser.open", "urllib.Request", "os.putenv", "os.kill", "builtins.input",
)  # fmt: skip
_CHANGING = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree")


class Watch:
    """Notes what is opened, changed, started and connected to outside the folder that a reader may use.

    Modules are imported while a reader runs, so files of Python, of installed packages and of ours may be read, and the
    system's own descriptions of itself.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.seen: list[str] = []
        paths = sysconfig.get_paths()
        places = {sys.prefix, sys.base_prefix, paths["stdlib"], paths["purelib"], *site.getsitepackages()}
        ours = Path(hmr_skel.__file__).parents[1]
        places |= {str(ours / name) for name in ("hmr_skel", "fitting", "flows")}
        self._readable = tuple(f"{os.path.realpath(place)}{os.sep}" for place in places)
        sys.addaudithook(self._hook)  # for good: hooks cannot be taken out, so it looks only where a folder is set

    def _hook(self, event: str, arguments: tuple) -> None:
        if self.folder is None:
            return
        if event.startswith(_FORBIDDEN):
            self.seen.append(f"{event} {arguments[:1]}")
        elif event in _CHANGING:
            self._note(event, arguments[0], writes=True)
        elif event == "open" and isinstance(arguments[0], str | bytes):  # else an open file's number
            self._note(event, arguments[0], writes=_is_write(arguments))

    def _note(self, event: str, path: object, writes: bool) -> None:
        text = os.fsdecode(path) if isinstance(path, str | bytes) else str(path)
        if not os.path.isabs(text) and (event != "open" or not (writes or os.path.lexists(text))):
            return  # relative to an open folder, as `shutil.rmtree` does
        real = os.path.realpath(text)
        if real.startswith((f"{self.folder}{os.sep}", "/dev/")) or real == str(self.folder) or "__pycache__" in real:
            return
        if not writes and (real.startswith((*self._readable, "/proc/", "/sys/", "/etc/mime")) or event != "open"):
            return
        self.seen.append(f"{event} {text}{'' if writes else ' for reading'}")

    @contextlib.contextmanager
    def on(self, folder: Path) -> Generator[list[str]]:
        """Watch what happens meanwhile; `folder` is the one that may be used, for temporary files too."""
        before, tempfile.tempdir = tempfile.tempdir, str(folder)
        self.folder, self.seen = Path(os.path.realpath(folder)), []
        try:
            yield self.seen
        finally:
            self.folder, tempfile.tempdir = None, before


def _is_write(arguments: tuple) -> bool:
    _, mode, flags = arguments
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return bool((flags or 0) & (os.O_WRONLY | os.O_RDWR))
