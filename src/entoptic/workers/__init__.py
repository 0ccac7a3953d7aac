"""Processes that share the work of one job, on this machine or on a Ray cluster. They know no model and no run."""
