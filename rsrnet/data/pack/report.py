"""What a packing tells at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rsrnet.data.pack.layout import Manifest


@dataclass(frozen=True)
class PackReport:
    """What a packing did."""

    composites: Mapping[str, int]
    """Composites of each list."""

    skipped: tuple[str, ...]
    """Why composites were left out."""

    shards: int
    reused: int
    """Shards that were there already."""

    bytes: int
    """Of all shards."""

    @classmethod
    def of(cls, manifest: Manifest, reused: int) -> PackReport:
        """The report about a whole pack."""
        return cls(
            composites={name: len(manifest.rows_of(name)) for name in manifest.lists},
            skipped=tuple(reason for shard in manifest.shards for reason in shard.skipped),
            shards=len(manifest.shards),
            reused=reused,
            bytes=sum(shard.bytes for shard in manifest.shards),
        )
