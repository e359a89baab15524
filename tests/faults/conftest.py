"""The small training of tests/platform, for everything that can happen to it."""

from tests.platform.conftest import history, make_job, train_file  # noqa: F401 - fixtures
