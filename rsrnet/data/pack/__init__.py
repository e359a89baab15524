"""Datasets packed for training: images at the training size, in Parquet files that are read at random.

A pack is a folder, or what a URI of an object store names::

    pack.json                  version, settings, lists and shards; written last, so a pack that has it is whole
    index.npy                  a row for each composite: its name, and where its image and its mask lie in a shard
    le50_train/00000.parquet   shards of the list le50_train.txt
    ...

The shards alone are a complete table, one row a composite, for everything that reads Parquet (Ray Data, DuckDB,
pandas). The reader here does not parse them: images and masks are stored uncompressed, so the index can say at which
byte each begins.
"""
