"""The gateway: one process in front of headless runtimes; clients of any language get durable sessions with no code."""
