"""The ground floor: files, cache, pixels, randomness, estimates, progress, training. Nothing here knows a model."""
