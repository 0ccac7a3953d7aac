"""Planted ground truth: generated scenes, networks and units whose causes are known, and meters that check for them."""
