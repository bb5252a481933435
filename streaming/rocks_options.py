"""How RocksDB is set up for the late store."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rocksdict import AccessType, BlockBasedOptions, Cache, Options, Rdict, WriteOptions

_BLOOM_BITS: Final = 10
_CACHE_BYTES: Final = 16 << 20
_BUFFER_BYTES: Final = 16 << 20
_BLOOM_SHARE: Final = 0.02


def no_log() -> WriteOptions:
    """Kafka holds what would be in RocksDB's own log: a mark is never on disk before what it speaks of."""
    how = WriteOptions()
    how.disable_wal = True  # type: ignore[method-assign, assignment]
    return how


def opened(folder: Path, ttl_seconds: int) -> Rdict:
    """The database in `folder`, which drops what is older than that as it compacts."""
    access = AccessType.with_ttl(ttl_seconds)
    # Options that are not given by column family are read from the folder of an earlier life, its filter of
    # what is too old too: inside the new one, that takes the ends of values for times, and drops everything.
    return Rdict(str(folder), _options(), column_families={"default": _options()}, access_type=access)


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    table = BlockBasedOptions()
    table.set_bloom_filter(_BLOOM_BITS, False)
    table.set_block_cache(Cache(_CACHE_BYTES))
    options.set_block_based_table_factory(table)
    options.set_write_buffer_size(_BUFFER_BYTES)
    # most ids that are asked for are new: they need not be looked for in what was not written to disk yet
    options.set_memtable_whole_key_filtering(True)
    options.set_memtable_prefix_bloom_ratio(_BLOOM_SHARE)
    options.set_max_write_buffer_number(3)
    options.set_keep_log_file_num(2)
    options.set_paranoid_checks(True)
    return options
