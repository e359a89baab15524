"""The platform: job files, Ray and MLflow around the method in ``rsrnet``."""
