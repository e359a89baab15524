"""Imports that take seconds, made while the job waits for something else."""

from __future__ import annotations

import importlib
import threading
from contextlib import suppress


def preload(*modules: str) -> None:
    """Import modules in the background, one after the other.

    Whoever imports one of them meanwhile waits until it is there, as for any import; what cannot be imported is left
    to whoever needs it. They must not be parts of Ray, which the job imports bit by bit at the same time.
    """
    # No daemon: a process that leaves in the midst of an import of C++ code is aborted.
    threading.Thread(target=_import, args=(modules,), name="rsrnet-preload").start()


def _import(modules: tuple[str, ...]) -> None:
    for module in modules:
        if threading.main_thread().is_alive():  # nobody needs it in a process that is about to leave
            with suppress(Exception):  # a library of C++ code may be broken in any way
                importlib.import_module(module)
