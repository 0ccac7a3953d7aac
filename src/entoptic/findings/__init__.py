"""From units to findings: which units, on together, tell two groups of photos apart."""
