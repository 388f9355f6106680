"""Recipes, which hold all settings of a training run."""

import ast
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from types import MappingProxyType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from hmr_skel.data.augment import AugmentConfig
from hmr_skel.data.selection import SampleConfig
from hmr_skel.errors import UserError
from hmr_skel.model.config import VIT_SIZES, DecoderConfig, NetworkConfig, VitConfig
from hmr_skel.train.losses import LossConfig

_Config = TypeVar("_Config")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings that a trained network depends on, without the dataset. The defaults are the paper's."""

    name: str
    """The recipe's name, which the network's file stores."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """The sizes and the variant of the network."""
    samples: SampleConfig = field(default_factory=SampleConfig)
    """The choice of rows, and the augmentation of samples."""
    losses: LossConfig = field(default_factory=LossConfig)
    """The weights of the losses."""
    skel_gender: Literal["male", "female"] = "male"
    """Gender of the dataset's SKEL bodies; a dataset of the other gender is refused."""
    pretrained_encoder: bool = True
    """Start from ViTPose's encoder (the file of --vitpose), or from random weights."""
    mean: Literal["published", "dataset"] = "published"
    """The mean body that the estimate starts from. `published`: SKEL_mean.npz beside the body models, or the same
    numbers from this package. `dataset`: the mean of the training rows."""
    epochs: float = 30.0
    """Number of passes over the dataset."""
    batch_size: int = 512
    """Samples per step, over all processes, so that a run is the same on one device and on eight."""
    micro_batch: int = 64
    """Samples that go through the network at once, which decides the memory; a step has several micro batches. A single
    process on a CPU computes one per core in parallel, unless the encoder has stochastic depth or is compiled."""
    learning_rate: float = 1e-5
    """The highest learning rate of AdamW."""
    schedule: Literal["constant", "cosine"] = "constant"
    """The learning rate after its rise: `constant`, or `cosine`, which falls to zero at the end."""
    warmup_epochs: float = 1.0
    """Number of epochs over which the learning rate rises linearly."""
    beta1: float = 0.9
    """AdamW's decay of the mean gradient."""
    beta2: float = 0.999
    """AdamW's decay of the mean squared gradient."""
    weight_decay: float = 1e-4
    """AdamW's weight decay, only on matrices, not on biases, norms and positions. (The published code decays all.)"""
    clip: float = 1.0
    """Largest L2 norm of the gradient of all parameters, as in the published code; the paper does not mention it."""
    ema_decay: float = 0.9995
    """The result is an exponential mean of the weights over steps, with this decay, as in the published code."""
    ema_tau: float = 6000.0
    """Number of steps over which that decay rises from 0: decay * (1 - exp(-step / tau))."""
    bf16: bool = True
    """Run the encoder in bfloat16; everything else is always float32."""
    activation_checkpointing: bool = False
    """Compute the encoder's blocks twice, which needs a fraction of the memory."""
    compile: bool = False
    """Compile the encoder (torch.compile)."""
    seed: int = 0
    """Seed of the initial weights, the order of samples, their augmentation and the encoder's stochastic depth."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "micro_batch", "learning_rate", "clip", "ema_tau"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, must be above 0")
        for name in ("warmup_epochs", "weight_decay", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, must not be negative")
        for name in ("beta1", "beta2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be from 0 to below 1")
        for name, known in _WORDS.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, must be {' or '.join(known)}")

    def steps(self, rows: int) -> int:
        """The number of optimiser steps on a dataset with this number of rows."""
        return max(1, round(self.epochs * rows / self.batch_size))

    def warmup_steps(self, rows: int) -> int:
        return round(self.warmup_epochs * rows / self.batch_size)

    def accumulate(self, processes: int) -> int:
        """The number of micro batches per step in each process. Raises `UserError` if the batch does not divide."""
        together = self.micro_batch * processes
        if self.batch_size % together:
            raise UserError(
                f"a batch of {self.batch_size} does not divide into micro batches of {self.micro_batch} in "
                f"{processes} {'processes' if processes > 1 else 'process'}: it must be a multiple of {together}. "
                "Change it with --set batch_size=... or --set micro_batch=... ."
            )
        return self.batch_size // together


_WORDS = {"skel_gender": ("male", "female"), "mean": ("published", "dataset"), "schedule": ("constant", "cosine")}


def vit_h() -> Recipe:
    """The paper's recipe: ViTPose-H encoder, 8 GPUs with 64 samples each, 30 epochs."""
    return Recipe(name="vit_h", activation_checkpointing=True, compile=True)


def vit_b() -> Recipe:
    """The paper's recipe with a smaller encoder, for one GPU."""
    network = NetworkConfig(vit=VIT_SIZES["vit_b"])
    return Recipe(name="vit_b", network=network, compile=True, batch_size=256, learning_rate=5e-5)


def tiny() -> Recipe:
    """Takes minutes on a laptop's CPU with the default dataset, for trying out; it is not accurate."""
    return Recipe(
        name="tiny",
        network=NetworkConfig(
            vit=VitConfig(width=128, depth=2, heads=4, stem_tokens=8),
            decoder=DecoderConfig(depth=3, heads=4, head_width=32, hidden=256),
            correction=512,
        ),
        samples=SampleConfig(
            augment=AugmentConfig(
                translation=0.03, flip_probability=0.5, extreme_crop_probability=0.0, degrade_probability=0.0
            )
        ),
        # With the paper's weights only keypoints matter: a network that does not know yet which way a person faces then
        # makes the body small and crumpled, which is nearest to all keypoints.
        losses=LossConfig(
            keypoints_2d=0.1, betas=0.01, pelvis=0.2, body=0.04, coarse=0.3, refine=1.0, keypoint_maps=0.05
        ),
        pretrained_encoder=False,
        mean="dataset",
        epochs=16.0,
        batch_size=32,
        micro_batch=16,
        learning_rate=3e-3,
        schedule="cosine",
        warmup_epochs=0.5,
        beta2=0.99,
        ema_decay=0.995,
        ema_tau=200.0,
        bf16=False,
    )


RECIPES: Mapping[str, Callable[[], Recipe]] = MappingProxyType({"tiny": tiny, "vit_b": vit_b, "vit_h": vit_h})


def load_recipe(name: str, changes: Sequence[str] = ()) -> Recipe:
    """The recipe of that name, with changes such as `network.vit.depth=4`, whose values are written as in Python.

    Raises `UserError` for an unknown recipe or field, or a value that the field cannot have.
    """
    if name not in RECIPES:
        raise UserError(f"no recipe {name!r}. Expected one of {', '.join(RECIPES)}.")
    recipe = RECIPES[name]()
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise UserError(f"--set {change}: expected FIELD=VALUE, such as learning_rate=1e-4.")
        try:
            recipe = _changed(recipe, key.strip().split("."), text.strip())
        except (ValueError, TypeError) as error:
            raise UserError(f"--set {change}: {error}.") from error
    # Check after all changes, since two changes may only be valid together.
    maps, weight = bool(recipe.network.vit.stem_tokens), recipe.losses.keypoint_maps
    if maps != bool(weight):
        raise UserError(
            f"losses.keypoint_maps is {weight:g}, and network.vit.stem_tokens is {recipe.network.vit.stem_tokens}: "
            "only a stem has keypoint maps, and it learns them only by that loss. Set both or neither to 0."
        )
    if recipe.network.correction and not maps:
        raise UserError(
            "network.correction needs a stem (network.vit.stem_tokens), whose keypoints it compares. Set it to 0."
        )
    return recipe


def recipe_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values for JSON."""
    return _plain(asdict(recipe))


def recipe_text(recipe: Recipe) -> str:
    """Each field and its value, one per line."""
    lines = [f"  {key:<36} {value}" for key, value in flat(recipe_dict(recipe)).items()]
    return "\n".join([f"recipe {recipe.name}", *lines])


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings into one, with dots in its keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """`name: value of one, value of the other` for every field in which two recipes (as dicts) differ."""
    a, b = flat(one), flat(other)
    keys = [key for key in [*a, *(key for key in b if key not in a)] if a.get(key) != b.get(key)]
    return [f"{key}: {a.get(key)}, {b.get(key)}" for key in keys]


def _changed(config: _Config, path: Sequence[str], text: str) -> _Config:
    assert is_dataclass(config)
    assert not isinstance(config, type)
    names = [item.name for item in fields(config)]
    if path[0] not in names:
        near = difflib.get_close_matches(path[0], names, n=1)
        hint = f"(did you mean {near[0]}?)" if near else f"among {', '.join(names)}"
        raise ValueError(f"no field {path[0]!r} {hint}")
    now = getattr(config, path[0])
    if len(path) > 1:
        if not is_dataclass(now):
            raise ValueError(f"{path[0]} has no fields")
        return replace(config, **{path[0]: _changed(now, path[1:], text)})
    if is_dataclass(now):
        raise ValueError(f"{path[0]} is a group: name one of its fields ({', '.join(f.name for f in fields(now))})")
    return replace(config, **{path[0]: _parsed(text, now, get_type_hints(type(config))[path[0]])})


def _parsed(text: str, now: Any, kind: Any) -> Any:
    """Parse a value of the field's type, or of the type of its present value."""
    words = {"true": True, "false": False, "none": None}
    if isinstance(now, str):
        return text.strip("'\"")
    try:
        value = words[text.lower()] if text.lower() in words else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if float in (kind, *get_args(kind)) and type(value) is int:
        value = float(value)
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    allowed = tuple(get_origin(one) or one for one in kinds)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise ValueError(f"expected a value like {now!r}")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
