"""Errors about a dataset: each message names the file and the remedy."""

from __future__ import annotations


class DataError(ValueError):
    """A dataset, a list or a name in it that cannot be used."""


class BadDataError(DataError):
    """Composites whose image or mask cannot be used, by name with the reason."""


class DecodeError(ValueError):
    """The content of a file is no picture that can be read.

    The message is the reason alone; whoever asked for the picture knows its name and adds it.
    """


class ReadError(DecodeError):
    """The file could not be read this time: it is forbidden, a device failed, or there was too little memory."""
