"""Every recipe by name."""

from __future__ import annotations

from entoptic.bench import full, small, standard, tuning
from entoptic.bench.recipe import Recipe
from entoptic.errors import UserError, instead

RECIPES: dict[str, Recipe] = {one.RECIPE.name: one.RECIPE for one in (small, tuning, standard, full)}


def find_recipe(name: str) -> Recipe:
    """Returns a recipe by name.

    Args:
        name: a key of `RECIPES`.

    Raises:
        UserError: there is no such recipe; the nearest is named.
    """
    if name not in RECIPES:
        raise UserError(f'no benchmark "{name[:80]}"{instead(name, RECIPES)}')
    return RECIPES[name]
