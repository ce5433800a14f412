"""Which settings are drawn, pruned and chosen: Optuna, and the statistics of a choice."""
