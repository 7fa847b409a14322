"""Readers of the published formats: records with the location of each image; local, or through fsspec.

text         JSON lines and lists, tables; *.tar of token lists or texts (open_lm, DCLM)
captions     *.tar (WebDataset: DataComp, DataComp-DR, CC12M); tables
interleaved  JSON lines and lists, tables (OBELICS, MMC4)
dialogues    JSON lines and lists (LLaVA), tables

JSON is .jsonl, .ndjson or .json, also as .gz, .zst or .zstd; tables are .parquet, .arrow or .feather.
"""

from firstsight.data.file_types import IMAGE_EXTENSIONS
from firstsight.data.readers.filesystem import Shard
from firstsight.data.readers.source_reader import (
    RecordReader,
    cached_shard_digests,
    check_shards_unchanged,
    list_shards,
    list_source,
    locate_source,
    without_declared_size,
)
from firstsight.data.readers.tars import TarMember, list_tar_members

__all__ = [
    "IMAGE_EXTENSIONS",
    "RecordReader",
    "Shard",
    "TarMember",
    "cached_shard_digests",
    "check_shards_unchanged",
    "list_shards",
    "list_source",
    "list_tar_members",
    "locate_source",
    "without_declared_size",
]
