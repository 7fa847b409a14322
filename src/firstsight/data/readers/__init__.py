"""Readers of the published formats: records with the location of each image; local, or through fsspec.

text         *.jsonl, .jsonl.gz, .jsonl.zst, .parquet, .arrow; *.tar of token lists or texts (open_lm, DCLM)
captions     *.tar (WebDataset: DataComp, DataComp-DR, CC12M); .parquet, .arrow
interleaved  *.jsonl, .jsonl.gz, .jsonl.zst, .parquet, .arrow (OBELICS, MMC4)
dialogues    *.json (LLaVA lists), .jsonl, .jsonl.gz, .jsonl.zst, .parquet, .arrow
"""

from firstsight.data.readers.filesystem import Shard
from firstsight.data.readers.source_reader import (
    RecordReader,
    cached_shard_digests,
    check_shards_unchanged,
    list_shards,
    locate_source,
    without_declared_size,
)
from firstsight.data.readers.tars import IMAGE_EXTENSIONS, TarMember, list_tar_members

__all__ = [
    "IMAGE_EXTENSIONS",
    "RecordReader",
    "Shard",
    "TarMember",
    "cached_shard_digests",
    "check_shards_unchanged",
    "list_shards",
    "list_tar_members",
    "locate_source",
    "without_declared_size",
]
