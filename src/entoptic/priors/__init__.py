"""Generative models of images (priors): loading, sampling and training them."""
