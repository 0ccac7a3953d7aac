"""Studies with people: built from runs, served or exported, answered, and read back as one tidy table."""
