"""The state of a run on disk, from which it resumes as if it had never stopped.

There is no random state: the order of samples, their augmentation and the random numbers of a step depend only on the
seed and the step. So the state consists of the weights, their mean, the optimiser's moments, and counters.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hmr_skel.data.atomic import replacing
from hmr_skel.errors import UserError
from hmr_skel.foreign import load_torch
from hmr_skel.train.recipes import Recipe, differences, recipe_dict

FORMAT = "hmr-skel training state, version 1"


@dataclass(frozen=True)
class State:
    """Everything that a run needs to resume."""

    step: int
    """Number of steps, including skipped ones."""
    skipped_steps: int
    """Number of steps without a change, because their gradient was not finite."""
    skipped_samples: int
    """Number of unreadable images, each replaced by another sample."""
    seconds: float
    """Time of training so far."""
    recipe: dict[str, Any]
    """The recipe, by `recipe_dict`."""
    rows: int
    """Number of the dataset's rows."""
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[str, Any]


_KINDS: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("step", "skipped_steps", "skipped_samples", "rows"), int), "seconds": (int, float),
    **dict.fromkeys(("recipe", "model", "ema", "optimizer"), dict),
}  # fmt: skip


def save_state(path: Path, state: State) -> None:
    """Write a state by rename. Raises `UserError` if the folder cannot be written."""
    with replacing(path) as temporary:
        torch.save({"format": FORMAT, **vars(state)}, temporary)


def load_state(path: Path) -> State:
    """Read a state onto the CPU. Raises `UserError` if the file is damaged or of another kind."""
    content = load_torch(path)
    found = content.pop("format", None) if isinstance(content, dict) else None
    try:
        if found != FORMAT:
            raise ValueError(f"expected {FORMAT!r} in it, found {found!r}")
        state = State(**content)
        for name, kinds in _KINDS.items():
            if not isinstance(getattr(state, name), kinds):
                raise TypeError(f"{name} is a {type(getattr(state, name)).__name__}")
        return state
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path}: not a training state of this version of hmr-skel ({error}). Start afresh with --fresh, or choose "
            "another folder with --out."
        ) from error


def last_state(path: Path, recipe: Recipe, rows: int) -> State | None:
    """The state from which a run resumes; None if there is none.

    Raises `UserError` if it is the state of another recipe or dataset.
    """
    if not path.exists():
        return None
    state = load_state(path)
    changed = differences(state.recipe, recipe_dict(recipe))
    if state.rows != rows:
        changed.append(f"rows of the dataset: {state.rows:,}, {rows:,}")
    if changed:
        raise UserError(
            f"{path} is the state of another run (there and here: {'; '.join(changed)}). Start afresh with --fresh, "
            "or choose another folder with --out."
        )
    return state
