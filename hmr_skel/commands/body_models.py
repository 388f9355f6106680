"""The folder of body models that a command without a manifest works with."""

import os
from pathlib import Path

from hmr_skel.errors import UserError

OPEN = "open"
"""In place of a folder: the openly licensed body, made where it is missing."""


def named_body_models(named: str | None, quiet: bool) -> Path:
    """The folder that the user names, or the environment. Raises `UserError` where neither does."""
    named = named or os.environ.get("HMR_SKEL_BODY_MODELS")
    if not named:
        raise UserError(
            "no body models: SMPL's and SKEL's licensed files are needed. Name their folder with --body-models DIR or "
            "HMR_SKEL_BODY_MODELS; --body-models open takes the openly licensed body, to try."
        )
    if named != OPEN:
        return Path(named)
    from flows.sources import make_open_body

    folder = Path(os.environ.get("HMR_SKEL_DATA") or "data") / "open" / "body_models"
    make_open_body(folder, quiet=quiet)
    return folder
