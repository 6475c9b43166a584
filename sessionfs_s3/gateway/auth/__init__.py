"""Who a client is, and how much it may do: the tenants file, tokens, JSON Web Tokens, limits. Reads files and keys."""
