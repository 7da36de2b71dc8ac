"""Recipes: which features are searched, and how; known without PyTorch.

A search is MSM of one layer at one degree, or at the degrees' mean. The paper's recipe makes
twelve; most of the time of a job goes into searches, and into blocks of the backbone, that add
little on the sets measured: benchmarks/recipes.py prints them, docs/recipes.md holds the figures.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

from .errors import InputError
from .features import get_spec
from .settings import DegreeFusion, Switch

logger = logging.getLogger(__name__)

Blocks = tuple[int, ...]


@dataclass(frozen=True)
class Choice:
    """What a recipe takes of a backbone.

    blocks: 0-based, or a function that gives them from the number of blocks; None: the backbone's
        own.
    rscin: whether image scores are smoothed by RsCIN, for which all blocks of the backbone run.
    """

    blocks: Blocks | Callable[[int], Blocks] | None = None
    rscin: bool = True


@dataclass(frozen=True)
class Recipe:
    """What is searched, and how.

    name: what a user types.
    summary: a line of help.
    degrees: neighbourhood sides of LNAMD.
    degree_fusion: see `score_batch`.
    copies: see `score_batch`; "off" where images are scored as the official code scores them.
    measured: the choices fixed by measurement, by the backbone's name.
    others: the choices for other backbones, by their library, which were not measured; where there
        is none, the backbone's own blocks and RsCIN, as in the paper.
    """

    name: str
    summary: str
    degrees: tuple[int, ...] = (1, 3, 5)
    degree_fusion: DegreeFusion = "scores"
    copies: Switch = "auto"
    measured: Mapping[str, Choice] = field(default_factory=dict)
    others: Mapping[str, Choice] = field(default_factory=dict)

    def choice(self, backbone: str) -> Choice:
        """What is taken of a backbone; raises InputError where there is no such backbone."""
        if backbone in self.measured:
            return self.measured[backbone]
        return self.others.get(get_spec(backbone).family, Choice())

    def blocks(self, backbone: str) -> Blocks | Callable[[int], Blocks] | None:
        """The blocks of `choice`; where they were not measured, a line of the log says so once."""
        choice = self.choice(backbone)
        if backbone not in self.measured and choice.blocks is not None:
            _say_unmeasured(self.name, backbone)
        return choice.blocks


def _at(*shares: float) -> Callable[[int], Blocks]:
    """The rule that takes the blocks at shares of the depth."""

    def blocks(depth: int) -> Blocks:
        return tuple(sorted({min(depth - 1, int(share * depth)) for share in shares}))

    return blocks


PAPER = Recipe(
    "paper", "the official one: four blocks, three degrees, twelve searches, RsCIN", copies="off"
)
ONE_SEARCH = Recipe(
    "one-search",
    "one block, its degrees averaged before one search; RsCIN for CLIP alone",
    degree_fusion="features",
    measured={
        "dinov2-vit-s-14": Choice((7,), rscin=False),
        "clip-vit-b-16": Choice((3,)),
    },
    others={"timm": Choice(_at(0.6), rscin=False), "open_clip": Choice(_at(0.3))},
)
TWO_SEARCHES = Recipe(
    "two-searches",
    "two blocks, the degrees of each averaged before its search; RsCIN for CLIP alone",
    degree_fusion="features",
    measured={
        "dinov2-vit-s-14": Choice((6, 8), rscin=False),
        "clip-vit-b-16": Choice((3, 6)),
    },
    others={"timm": Choice(_at(0.5, 0.7), rscin=False), "open_clip": Choice(_at(0.3, 0.5))},
)
RECIPES = (PAPER, ONE_SEARCH, TWO_SEARCHES)
DEFAULT_RECIPE = ONE_SEARCH.name


def get_recipe(name: str) -> Recipe:
    """The recipe called `name`; raises InputError where there is none."""
    for recipe in RECIPES:
        if isinstance(name, str) and recipe.name == name:
            return recipe
    known = [recipe.name for recipe in RECIPES]
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise InputError(f"recipe: found {name!r}, wanted one of {', '.join(known)}{hint}")


@cache
def _say_unmeasured(recipe: str, backbone: str) -> None:
    logger.warning(
        "recipe %s: its blocks of %s follow a rule by depth that was not measured on it; the "
        "recipe paper takes the official ones",
        recipe,
        backbone,
    )
