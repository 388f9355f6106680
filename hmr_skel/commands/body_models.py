"""Where a command finds body models when no manifest says so."""

import os
from pathlib import Path

OPEN = "open"
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
