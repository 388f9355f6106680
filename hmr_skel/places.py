"""Default places: the data folder, and the manifests that come with the package.

Each `prefect` command loads this module through flows/address.py, so it imports only the standard library.
"""

import os
from pathlib import Path

DATA_VARIABLE = "HMR_SKEL_DATA"
MANIFESTS = Path(__file__).parent / "manifests"
DEFAULT_MANIFEST = "manifests/open.toml"


def data_folder() -> Path:
    """The folder for datasets, generated labels and trained networks, unless the user names another.

    HMR_SKEL_DATA if it is set; else data/ of the clone that this package runs from; else the user's data directory.
    The path is relative if the working directory is the clone.
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
    """The path itself; if it is a missing manifests/NAME.toml, the manifest of that name in the package."""
    path = Path(path)
    packaged = MANIFESTS / path.name
    return packaged if path.parent == Path("manifests") and not path.exists() and packaged.is_file() else path


def packaged() -> str:
    """The paths of the package's manifests, as `manifest_file` takes them, for messages."""
    return ", ".join(f"manifests/{path.name}" for path in sorted(MANIFESTS.glob("*.toml")))
