"""The file system as a value: paths, operations, an immutable tree, and commands that turn requests into operations.

Pure: no input or output, no clock, no randomness, no asyncio. Time and mode reach it as arguments.
"""

from sessionfs_s3.fs.chunk import (
    CHUNK_BYTES,
    PAGES_CHUNK_BYTES,
    Blob,
    Body,
    Change,
    Chunk,
    Place,
    bytes_of,
    digest_of,
    source_of,
)
from sessionfs_s3.fs.commands import (
    append_file,
    make_directory,
    remove,
    rename,
    write_file,
)
from sessionfs_s3.fs.content import EMPTY, Content, Pages
from sessionfs_s3.fs.operations import (
    AppendFile,
    Clear,
    MakeDirectory,
    Operation,
    Remove,
    Rename,
    WriteDatabase,
    WriteFile,
)
from sessionfs_s3.fs.paths import Path, joined, parse
from sessionfs_s3.fs.tree import (
    EMPTY_TREE,
    Directory,
    File,
    Inapplicable,
    Node,
    Stat,
    Tree,
    apply,
    contents,
    find,
    list_directory,
    stat,
)

__all__ = [
    "CHUNK_BYTES",
    "EMPTY",
    "EMPTY_TREE",
    "PAGES_CHUNK_BYTES",
    "AppendFile",
    "Blob",
    "Body",
    "Change",
    "Chunk",
    "Clear",
    "Content",
    "Directory",
    "File",
    "Inapplicable",
    "MakeDirectory",
    "Node",
    "Operation",
    "Pages",
    "Path",
    "Place",
    "Remove",
    "Rename",
    "Stat",
    "Tree",
    "WriteDatabase",
    "WriteFile",
    "append_file",
    "apply",
    "bytes_of",
    "contents",
    "digest_of",
    "find",
    "joined",
    "list_directory",
    "make_directory",
    "parse",
    "remove",
    "rename",
    "source_of",
    "stat",
    "write_file",
]
