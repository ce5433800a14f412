"""MLflow: runs, metrics, models and their upload."""
