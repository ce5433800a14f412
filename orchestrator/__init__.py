"""Studies of ULRL: a grid in a file, trials on Ray Tune, pruning by Optuna, MLflow's record."""
