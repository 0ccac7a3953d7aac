"""Slow references written from the papers' formulas; they share no code with the package."""
