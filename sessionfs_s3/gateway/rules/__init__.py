"""What becomes of each message, by its method and parameters: pure tables and functions; a security boundary."""
