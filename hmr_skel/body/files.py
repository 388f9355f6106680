"""The names that body model files have, and where in a folder they are. Nothing is opened here."""

from pathlib import Path

from hmr_skel.errors import UserError

SMPL_FILES = {"neutral": "SMPL_NEUTRAL.pkl", "male": "SMPL_MALE.pkl", "female": "SMPL_FEMALE.pkl"}
SKEL_FILES = {"male": "skel_male.pkl", "female": "skel_female.pkl"}


def model_path(folder: Path, name: str) -> Path:
    """The file of that name in the folder.

    Raises:
        UserError: it is not there; the text lists what is.
    """
    path = folder / name
    if not path.is_file():
        found = sorted(p.name for p in folder.glob("*.*")) if folder.is_dir() else []
        raise UserError(
            f"no body model {path}. The folder "
            + (f"has {', '.join(found[:12])}. " if found else "does not exist or is empty. ")
            + f"Expected the official file under the name {name}; `hmr-skel doctor` lists them all, and "
            "manifests/open.toml needs none."
        )
    return path
