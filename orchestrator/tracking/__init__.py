"""MLflow: the mirror of a study, from which nothing is ever read back into a result."""
