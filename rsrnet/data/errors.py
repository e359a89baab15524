"""Errors about a dataset: each message names the file and the remedy."""

from __future__ import annotations


class DataError(ValueError):
    """A dataset, a list or a name in it that cannot be used."""


class BadDataError(DataError):
    """Composites whose image or mask cannot be used, by name with the reason."""
