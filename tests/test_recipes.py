"""Recipes: what they take of which backbone, and what MuSc makes of them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tiny import TINY, tiny_weights

from musc_fast import MuSc, recipes
from musc_fast.errors import InputError
from musc_fast.recipes import DEFAULT_RECIPE, RECIPES, get_recipe


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


def test_the_paper_s_recipe_is_the_official_one(weights: Path) -> None:
    musc = MuSc(TINY, weights=weights, recipe="paper")
    assert musc.settings.degrees == (1, 3, 5)
    assert musc.settings.degree_fusion == "scores"
    assert musc.backbone.blocks == (1, 2, 4, 5)  # the quarters of six
    assert musc.use_cls
    assert get_recipe("paper").blocks("dinov2-vit-s-14") is None


def test_the_default_is_one_search_without_the_later_blocks(
    weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipes._say_unmeasured.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            musc = MuSc(TINY, weights=weights)
    assert musc.recipe == DEFAULT_RECIPE == "one-search"
    assert musc.settings.searches_a_layer * len(musc.backbone.blocks) == 1
    assert not musc.use_cls
    lines = [each.message for each in caplog.records if "not measured" in each.message]
    assert len(lines) == 1
    assert TINY in lines[0]


def test_what_is_given_stands_above_the_recipe(
    weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipes._say_unmeasured.cache_clear()
    musc = MuSc(
        TINY,
        weights=weights,
        blocks=(0, 2),
        degrees=(3,),
        degree_fusion="scores",
        use_cls=True,
    )
    assert musc.backbone.blocks == (0, 2)
    assert musc.settings.degrees == (3,)
    assert musc.settings.degree_fusion == "scores"
    assert musc.use_cls
    assert not [each for each in caplog.records if "not measured" in each.message]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("backbone", ["dinov2-vit-s-14", "clip-vit-b-16", "clip-vit-l-14-336"])
@pytest.mark.parametrize("depth", [1, 6, 12, 24, 40])
def test_the_blocks_are_blocks_of_the_backbone(
    recipe: recipes.Recipe, backbone: str, depth: int
) -> None:
    blocks = recipe.choice(backbone).blocks
    if callable(blocks):
        found = blocks(depth)
        assert 1 <= len(found) <= 2
        assert all(0 <= block < depth for block in found)
        assert list(found) == sorted(set(found))


def test_an_unknown_name_is_refused(weights: Path) -> None:
    with pytest.raises(InputError, match=r"recipe: found 'papre', wanted one of .*did you mean pa"):
        MuSc(TINY, weights=weights, recipe="papre")
