"""Registered models: who is champion and was, and the commands ``rsrnet models ...``."""
