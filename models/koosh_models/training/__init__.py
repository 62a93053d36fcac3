"""From data to weights: recipes, simulated cases, the loop, checkpoints, ranks, reports."""
