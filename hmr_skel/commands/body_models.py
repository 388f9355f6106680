"""The folder of body models that a command without a manifest works with."""

import os
from pathlib import Path

from hmr_skel.errors import UserError

OPEN = "open"
"""In place of a folder: the openly licensed body, made where it is missing."""
BODY_MODELS_HELP = (
    "folder with SMPL_*.pkl and skel_*.pkl (default: $HMR_SKEL_BODY_MODELS); 'open' takes the openly licensed body"
)


def named_body_models(named: str | None, *, quiet: bool) -> Path | None:
    """The folder that `--body-models` names, else HMR_SKEL_BODY_MODELS; None where neither does.

    For `open`, the openly licensed body is exported first where it is missing. Raises `UserError` where it cannot be.
    """
    named = named or os.environ.get("HMR_SKEL_BODY_MODELS")
    if not named:
        return None
    if named != OPEN:
        return Path(named)
    from flows.sources import make_open_body

    folder = Path(os.environ.get("HMR_SKEL_DATA") or "data") / "open" / "body_models"
    make_open_body(folder, quiet=quiet)
    return folder


def required_body_models(named: str | None, *, quiet: bool) -> Path:
    """The same for commands that cannot do without. Raises `UserError` where nobody names a folder."""
    folder = named_body_models(named, quiet=quiet)
    if folder is None:
        raise UserError(
            "no body models: SMPL's and SKEL's licensed files are needed. Name their folder with --body-models DIR or "
            "HMR_SKEL_BODY_MODELS; --body-models open takes the openly licensed body, to try."
        )
    return folder


def open_body(*, quiet: bool) -> Path:
    """The folder of the open body, exported there where it is missing."""
    folder = named_body_models(OPEN, quiet=quiet)
    assert folder is not None
    return folder
