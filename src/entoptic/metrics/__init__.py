"""Measurements of the saved 8-bit picture, each with its n, interval and direction."""
