"""Connections over TLS, and certificates that cannot be used."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sessionfs_s3.cli.gateway import server_context
from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.gateway.frames import framed
from sessionfs_s3.testing.fake_runtime import fake_runtime
from tests.gateway.fakes import HOST, gateway_before


def issue(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for loopback that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "gateway.crt", folder / "gateway.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


async def test_clients_connect_over_tls_and_nobody_does_without(tmp_path: Path) -> None:
    certificate, key = issue(tmp_path)
    trusting = ssl.create_default_context(cafile=str(certificate))
    greeting = framed(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "connect", "params": {}}).encode())
    async with (
        fake_runtime() as runtime,
        gateway_before(runtime, tls=server_context(certificate, key), handshake_s=2.0) as gateway,
    ):
        reader, writer = await asyncio.open_connection(HOST, gateway.port, ssl=trusting)
        writer.write(greeting)
        header = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        answer = json.loads(await reader.readexactly(int(header.split(b":")[1])))
        assert answer["result"]["ok"] is True
        writer.close()
        await writer.wait_closed()
        reader, writer = await asyncio.open_connection(HOST, gateway.port)
        writer.write(greeting)
        assert b"result" not in await asyncio.wait_for(reader.read(), 10), "a plain connection is closed"
        writer.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(HOST, gateway.port, ssl=ssl.create_default_context())


def test_certificates_that_cannot_be_used_are_refused_by_name(tmp_path: Path) -> None:
    certificate, key = issue(tmp_path)
    assert server_context(None, None) is None
    with pytest.raises(InvalidInput, match="must be given together"):
        server_context(certificate, None)
    with pytest.raises(InvalidInput, match=r"--tls-cert .*cannot be used"):
        server_context(tmp_path / "missing.crt", key)
    with pytest.raises(InvalidInput, match=r"--tls-cert .*cannot be used"):
        server_context(key, certificate)
