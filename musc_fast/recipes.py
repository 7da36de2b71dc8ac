"""Recipes: which features are searched, and how; known without PyTorch.

A search is MSM of one layer at one degree. The paper's recipe makes twelve; most of the time of a
job goes into searches, and into blocks of the backbone, that add little on the sets measured
(benchmarks/recipes.py, docs/recipes.md).
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

from .errors import InputError
from .settings import DegreeFusion

logger = logging.getLogger(__name__)

Blocks = tuple[int, ...]


@dataclass(frozen=True)
class Recipe:
    """What is searched, and how.

    name: what a user types.
    summary: a line of help.
    degrees: neighbourhood sides of LNAMD.
    degree_fusion: see `score_batch`.
    rscin: whether image scores are smoothed by RsCIN, for which all blocks of the backbone run.
    blocks: 0-based blocks by the backbone's name, fixed by measurement.
    rule: the blocks of another backbone by its depth, not measured; None: the backbone's own.
    """

    name: str
    summary: str
    degrees: tuple[int, ...] = (1, 3, 5)
    degree_fusion: DegreeFusion = "scores"
    rscin: bool = True
    blocks: Mapping[str, Blocks] = field(default_factory=dict)
    rule: Callable[[int], Blocks] | None = None


def _at(*shares: float) -> Callable[[int], Blocks]:
    """The rule that takes the blocks at shares of the depth."""

    def blocks(depth: int) -> Blocks:
        return tuple(sorted({min(depth - 1, round(share * depth)) for share in shares}))

    return blocks


PAPER = Recipe("paper", "the official recipe: four blocks, three degrees, twelve searches, RsCIN")
ONE_SEARCH = Recipe(
    "one-search",
    "one block, its degrees averaged before one search, no RsCIN; later blocks are not run",
    degree_fusion="features",
    rscin=False,
    blocks={"dinov2-vit-s-14": (7,), "clip-vit-b-16": (3,), "clip-vit-b-16-gelu": (3,)},
    rule=_at(0.6),
)
TWO_SEARCHES = Recipe(
    "two-searches",
    "two blocks, the degrees of each averaged before its search, no RsCIN",
    degree_fusion="features",
    rscin=False,
    blocks={"dinov2-vit-s-14": (7, 8), "clip-vit-b-16": (3, 5), "clip-vit-b-16-gelu": (3, 5)},
    rule=_at(0.6, 0.7),
)
RECIPES = (PAPER, ONE_SEARCH, TWO_SEARCHES)
DEFAULT_RECIPE = ONE_SEARCH.name


def get_recipe(name: str) -> Recipe:
    """The recipe called `name`; raises InputError where there is none."""
    for recipe in RECIPES:
        if recipe.name == name:
            return recipe
    known = [recipe.name for recipe in RECIPES]
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise InputError(f"recipe: found {name!r}, wanted one of {', '.join(known)}{hint}")


def blocks_of(recipe: Recipe, backbone: str) -> Blocks | Callable[[int], Blocks] | None:
    """The blocks of a recipe for a backbone, as `load_backbone` takes them.

    For a backbone on which the recipe was not measured that is its rule by depth, and a line of the
    log says so once.
    """
    if recipe.rule is None:
        return None
    if backbone in recipe.blocks:
        return recipe.blocks[backbone]
    _say_unmeasured(recipe.name, backbone)
    return recipe.rule


@cache
def _say_unmeasured(recipe: str, backbone: str) -> None:
    logger.warning(
        "recipe %s: its blocks of %s follow a rule by depth that was not measured on it; "
        "--recipe paper takes the official choice",
        recipe,
        backbone,
    )
