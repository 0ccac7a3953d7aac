"""Training of dictionaries, checkpoints of other tools, splits of units, families of features, contributions."""
