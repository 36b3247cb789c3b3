"""Events of a training, MLflow, provenance."""
