"""Recipes, and what a configuration refuses."""

import json
from dataclasses import replace

import pytest

from fitting.config import RECIPES, FitConfig, Stage, recipe
from hmr_skel.errors import UserError


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_known_by_name_and_are_plain_numbers(name):
    config = recipe(name)
    assert json.loads(json.dumps(config.as_dict()))["stages"][-1]["part"] == "full"
    assert config.as_dict().keys() == FitConfig.__dataclass_fields__.keys()


def test_every_value_reaches_the_fingerprint():
    config = recipe("default")
    changed = replace(config, prior_weight=2e-6)
    assert changed.as_dict() != config.as_dict()
    first = replace(config.stages[0], iterations=7)
    assert replace(config, stages=(first, *config.stages[1:])).as_dict() != config.as_dict()


def test_unknown_recipe_names_the_known_ones():
    with pytest.raises(UserError, match=r"'best'.*default.*published_shape"):
        recipe("best")


@pytest.mark.parametrize(
    "wrong",
    [{"stages": ()}, {"stages": (Stage(part="upper"),)}, {"shape": "guess"}, {"root": "guess"}, {"limits": "none"},
     {"batch": 0}, {"prior_weight": -1e-6}, {"betas_weight": -1e-6}, {"retry_v2v_mm": -1.0}, {"betas_rms": 0.0},
     {"step_tolerance": 0.0}, {"max_step": -1.0}],
    ids=str,
)  # fmt: skip
def test_impossible_configurations_are_refused(wrong):
    with pytest.raises(ValueError, match=r"full|shape|root|limits|positive|negative"):
        FitConfig(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"part": "left"}, {"joints": "hips"}, {"refreshes": 0}, {"iterations": 0}, {"vertices": -1},
     {"joint_weight": -0.1}],
    ids=str,
)  # fmt: skip
def test_impossible_stages_are_refused(wrong):
    with pytest.raises(ValueError, match="stage"):
        Stage(**{"part": "full"} | wrong)
