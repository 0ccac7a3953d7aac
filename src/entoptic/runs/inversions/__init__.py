"""The parts of `invert`, by what they are about; `entoptic.runs.invert` puts them together."""
