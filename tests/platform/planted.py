"""Secrets that a test plants in an environment, and looks for in what came of it."""

from __future__ import annotations

import base64
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

USER = "trainer"


@dataclass(frozen=True)
class Planted:
    """Secrets of one test, each found by its own bytes."""

    token: str
    password: str
    key: str
    session: str
    other: str

    @classmethod
    def make(cls) -> Planted:
        return cls(*(f"planted{uuid4().hex}" for _ in range(5)))

    @property
    def environment(self) -> dict[str, str]:
        return {
            "RAY_AUTH_TOKEN": self.token,
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": self.password,
            "AWS_ACCESS_KEY_ID": "AKIAPLANTED",
            "AWS_SECRET_ACCESS_KEY": self.key,
            "AWS_SESSION_TOKEN": self.session,
            "AZURE_STORAGE_CONNECTION_STRING": f"AccountName=me;AccountKey={self.other}",
        }

    @property
    def bytes(self) -> list[bytes]:
        """As they may be written: as they are, or as the header of a request."""
        basic = base64.b64encode(f"{USER}:{self.password}".encode())
        plain = (self.token, self.password, self.key, self.session, self.other)
        return [basic, *(text.encode() for text in plain)]

    def in_files(self, *folders: Path) -> list[tuple[Path, bytes]]:
        """Where they are found in the files of folders, at any depth."""
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        assert files
        found = []
        for path in files:
            with suppress(FileNotFoundError):  # of a program that still runs
                content = path.read_bytes()
                found += [(path, each) for each in self.bytes if each in content]
        return found

    def in_text(self, text: str) -> list[bytes]:
        return [each for each in self.bytes if each in text.encode()]
