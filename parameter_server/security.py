"""Who may speak to a shard: mutual TLS and a shared token, for the server and for its clients.

Knows no requests. What is configured is read once, at the start.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
from pathlib import Path
from typing import Any, Final, NamedTuple

from pyarrow import flight

from schema.config import SecurityConfig
from schema.errors import ConfigError

_log = logging.getLogger(__name__)

_HEADER: Final = "authorization"
_SCHEME: Final = "Bearer "


class Credentials(NamedTuple):
    """The contents of the configured files; None where there is none."""

    token: str | None
    certificate: bytes | None
    key: bytes | None
    authority: bytes | None

    @property
    def scheme(self) -> str:
        """The URI scheme that both ends speak."""
        return "grpc+tls" if self.certificate is not None else "grpc"

    def headers(self) -> list[Any]:
        """What a client sends with every call."""
        return [] if self.token is None else [(_HEADER.encode(), (_SCHEME + self.token).encode())]

    def client_options(self) -> dict[str, Any]:
        """What a FlightClient takes to show its certificate and check the shard's."""
        if self.certificate is None:
            return {}
        return {"tls_root_certs": self.authority, "cert_chain": self.certificate, "private_key": self.key}

    def server_options(self) -> dict[str, Any]:
        """What a FlightServerBase takes to show its certificate, and to check clients' and the token."""
        options: dict[str, Any] = {}
        if self.token is not None:
            options["middleware"] = {"token": _TokenCheck(self.token)}
        if self.certificate is not None:
            options["tls_certificates"] = [(self.certificate, self.key)]
            options["verify_client"] = True
            options["root_certificates"] = self.authority
        return options


def read_credentials(config: SecurityConfig) -> Credentials:
    """The contents of the files that `config` names.

    Raises:
        ConfigError: one cannot be read, the token is empty, or only some of the TLS files are named.
    """
    tls = {name: getattr(config, name) for name in ("certificate_file", "key_file", "ca_file")}
    missing = [name for name, value in tls.items() if value is None]
    if 0 < len(missing) < len(tls):
        raise ConfigError(
            f"parameter_server.security.{missing[0]}: not given; legal are all of {', '.join(tls)} or none"
        )
    token = _read("token_file", config.token_file)
    text = None if token is None else token.decode(errors="replace").strip()
    if text == "":
        raise ConfigError(f"parameter_server.security.token_file: {config.token_file} is empty")
    return Credentials(text, *(_read(name, value) for name, value in tls.items()))


def _read(name: str, file: str | None) -> bytes | None:
    if file is None:
        return None
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"parameter_server.security.{name}: {error}") from error


def warn_if_open(host: str, credentials: Credentials) -> None:
    """Warn where anyone who reaches `host` could read and change the tables."""
    if credentials.certificate is None and not _is_loopback(host):
        also = "" if credentials.token is None else ", and the token travels in the clear"
        _log.warning(
            "the shard listens on %s without TLS%s: set parameter_server.security.certificate_file, key_file "
            "and ca_file (and token_file), or keep the network private",
            host,
            also,
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _TokenCheck(flight.ServerMiddlewareFactory):
    def __init__(self, token: str) -> None:
        super().__init__()
        self._expected = (_SCHEME + token).encode()

    def start_call(self, _info: Any, headers: Any) -> None:
        """Refuse the call unless it carries the token; compares in constant time."""
        given = next((values for name, values in headers.items() if name.lower() == _HEADER), [""])
        if not any(hmac.compare_digest(value.encode(), self._expected) for value in given):
            raise flight.FlightUnauthenticatedError(
                "token: none or a wrong one; legal is that of parameter_server.security.token_file"
            )
