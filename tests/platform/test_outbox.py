"""Calls to the MLflow store that nobody waits for: how long an outbox waits when it is asked to be empty."""

from __future__ import annotations

import time

import pytest
import requests

from rsrnet_platform.outage import UnreachableError
from rsrnet_platform.outbox import Outbox


def test_without_patience_a_store_that_is_slow_is_not_one_that_is_away() -> None:
    done: list[bool] = []

    def slowly() -> None:
        time.sleep(0.5)
        done.append(True)

    outbox = Outbox("http://127.0.0.1:1", patience=0, tell=lambda text: None)
    outbox.put(slowly)
    outbox.flush()
    assert done == [True]


def test_without_patience_a_store_that_is_away_is_not_waited_for() -> None:
    def refused() -> None:
        raise requests.ConnectionError("refused")

    outbox = Outbox("http://127.0.0.1:1", patience=0, tell=lambda text: None)
    outbox.put(refused)
    begin = time.monotonic()
    with pytest.raises(UnreachableError):
        outbox.flush()
    outbox.abandon()
    assert time.monotonic() - begin < 30
