"""The file system as a value: paths, operations, an immutable tree, and commands that turn requests into operations.

Pure: no input or output, no clock, no randomness, no asyncio. Time and mode reach it as arguments.
"""

from sessionfs_s3.fs.commands import (
    append_file,
    make_directory,
    remove,
    rename,
    write_file,
)
from sessionfs_s3.fs.content import EMPTY, Content
from sessionfs_s3.fs.operations import (
    AppendFile,
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
    find,
    list_directory,
    stat,
)

__all__ = [
    "EMPTY",
    "EMPTY_TREE",
    "AppendFile",
    "Content",
    "Directory",
    "File",
    "Inapplicable",
    "MakeDirectory",
    "Node",
    "Operation",
    "Path",
    "Remove",
    "Rename",
    "Stat",
    "Tree",
    "WriteDatabase",
    "WriteFile",
    "append_file",
    "apply",
    "find",
    "joined",
    "list_directory",
    "make_directory",
    "parse",
    "remove",
    "rename",
    "stat",
    "write_file",
]
