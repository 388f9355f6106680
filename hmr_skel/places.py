"""Where things are when nobody says where: the folder of data, and the manifests that come with the package.

Prefect loads this module with flows/address.py at every command of its own, so it imports the standard library only.
"""

import os
from pathlib import Path

DATA_VARIABLE = "HMR_SKEL_DATA"
MANIFESTS = Path(__file__).parent / "manifests"
DEFAULT_MANIFEST = "manifests/open.toml"


def data_folder() -> Path:
    """The folder that datasets, made labels and trained networks go to, and are read from, unless another is named.

    HMR_SKEL_DATA where it is set; else data/ of the clone that this package runs from; else the user's data directory.
    The working directory changes only how the path is written: it is relative in the clone itself.
    """
    if named := os.environ.get(DATA_VARIABLE):
        return Path(named).expanduser()
    clone = Path(__file__).resolve().parents[1]
    if (clone / "pyproject.toml").is_file():
        return Path("data") if Path.cwd() == clone else clone / "data"
    from platformdirs import user_data_path

    return user_data_path("hmr-skel", appauthor=False)


def runs_folder() -> Path:
    """The folder of trained networks, each run in a folder named for its recipe."""
    return data_folder() / "runs"


def manifest_file(path: str | Path) -> Path:
    """That file; for manifests/NAME.toml, where there is none, the one of that name that comes with the package."""
    path = Path(path)
    packaged = MANIFESTS / path.name
    return packaged if path.parent == Path("manifests") and not path.exists() and packaged.is_file() else path


def packaged() -> str:
    """The manifests that come with the package, as `manifest_file` takes them: for messages."""
    return ", ".join(f"manifests/{path.name}" for path in sorted(MANIFESTS.glob("*.toml")))
