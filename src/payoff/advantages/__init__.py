"""Credit to advantage: baselines that take out what was to be expected, and scales that make numbers comparable."""
