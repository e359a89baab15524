"""Hyperparameter search: what `kind: tune` stands on; :mod:`rsrnet_platform.tune` puts it together."""
