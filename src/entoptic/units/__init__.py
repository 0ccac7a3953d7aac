"""Addresses of units and how each is read out of its layer."""
