"""A run that version 0.1.0 stored, and the requests that made it."""
