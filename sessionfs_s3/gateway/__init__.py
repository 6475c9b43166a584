"""The gateway: any SDK, in any language, gets durable sessions with no code.

Who a client is: :mod:`~sessionfs_s3.gateway.authenticator`, from a tenants file
(:mod:`~sessionfs_s3.gateway.tenants`), its hashed tokens (:mod:`~sessionfs_s3.gateway.tokens`) or JSON Web Tokens
(:mod:`~sessionfs_s3.gateway.jwts`, :mod:`~sessionfs_s3.gateway.jwt_keys`), with failed attempts bounded
(:mod:`~sessionfs_s3.gateway.attempts`). How much it may do: :mod:`~sessionfs_s3.gateway.limits`.
"""
