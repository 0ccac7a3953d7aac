"""Files, cache, pixels, randomness, estimates, progress and the training loop. Nothing here knows a model."""
