"""The benchmark: recipes of methods on units, one table with intervals, and pages that say what each number means."""
