"""Composites on disk: names, lists, checks, folds, transforms, samplers and loaders.

Kept empty on purpose: ``rsrnet.data.config`` is imported by tools that must start without loading torch.
"""
