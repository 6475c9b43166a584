"""The command line, ``sessionfs-s3``: thin commands over the rest of the package."""
