"""The small training of the platform's tests."""

from tests.platform.conftest import train_file  # noqa: F401 - a fixture
