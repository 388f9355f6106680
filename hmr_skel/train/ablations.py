"""The variants of the paper's Tables 4 and 5: which fields of a recipe make each, and how long they may all take."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hmr_skel.errors import UserError
from hmr_skel.train.recipes import Recipe, load_recipe

SHARE_OF_TIME = 0.8
"""Of the minutes allowed that training is planned to take: the rest is for start-up, evaluation, and a slower hour."""


@dataclass(frozen=True)
class Variant:
    """One line of a table, or of both."""

    name: str
    """On the command line, and of the run's folder."""
    lines: dict[str, str]
    """The number of the paper's table -> the line in it."""
    changes: tuple[str, ...]
    """As `load_recipe` takes them."""


VARIANTS = (
    Variant("full", {"4": "full", "5": "sparse"}, ()),
    Variant(
        "baseline",
        {"4": "baseline + our data"},
        ("network.camera=false", "network.coarse=false", "network.refine=false"),
    ),
    Variant("no-cam", {"4": "w/o Cam"}, ("network.camera=false",)),
    Variant("no-c2f", {"4": "w/o C2F"}, ("network.coarse=false",)),
    Variant("no-refine", {"4": "w/o Refine"}, ("network.refine=false",)),
    Variant("full-super", {"5": "full super."}, ("losses.full_supervision=true",)),
    Variant("looped", {"5": "looped"}, ("network.looped=true",)),
)
DEAREST = "full-super"
"""The variant whose steps take longest."""


def chosen_variants(text: str) -> tuple[Variant, ...]:
    """Those of a list such as `full,looped`, or `all`. `full` is always among them: the others are compared with it.

    Raises `UserError` for an unknown one.
    """
    names = [name.strip() for name in text.split(",")]
    known = [variant.name for variant in VARIANTS]
    unknown = [name for name in names if name not in (*known, "all")]
    if unknown:
        raise UserError(f"no variant {unknown[0]!r}. There are {', '.join(known)}, or `all`.")
    return tuple(v for v in VARIANTS if "all" in names or v.name in names or v.name == "full")


def variant_recipe(variant: Variant, name: str, changes: Sequence[str]) -> Recipe:
    """The recipe of that name, with the user's changes and the variant's. Raises `UserError` as `load_recipe`."""
    return load_recipe(name, [*changes, *variant.changes])


def affordable_epochs(recipe: Recipe, rows: int, runs: int, images_per_s: float, minutes: float) -> float:
    """Passes over the data that so many runs can make in so many minutes, at most the recipe's own.

    Raises `UserError` where that is less than one step.
    """
    epochs = SHARE_OF_TIME * 60 * minutes * images_per_s / (runs * rows)
    epochs = math.floor(100 * epochs) / 100
    if epochs * rows < recipe.batch_size:
        raise UserError(
            f"at {images_per_s:.1f} images/s, {runs} runs in {minutes:g} minutes are less than one step each. Allow "
            "more with --minutes, name fewer --variants, or a smaller recipe."
        )
    return min(recipe.epochs, epochs)


def shortened(recipe: Recipe, epochs: float) -> Recipe:
    """The recipe with fewer passes, and as much shorter a rise of its learning rate."""
    if epochs >= recipe.epochs:
        return recipe
    return replace(recipe, epochs=epochs, warmup_epochs=recipe.warmup_epochs * epochs / recipe.epochs)
