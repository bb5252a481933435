"""Mutual TLS and the token: with both a client is served, without either it is refused and nothing changes."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import flight

from parameter_server import messages
from parameter_server.client import ParameterClient
from parameter_server.errors import ParameterServerError
from parameter_server.replica import ReplicaTables
from parameter_server.security import read_credentials, warn_if_open
from parameter_server.server import ShardServer
from parameter_server.shard import Shard
from schema.config import ParameterServerConfig, SecurityConfig, ShardConfig
from schema.errors import ConfigError
from tests.parameter_server.cases import config, u64

IDS = u64(range(20))


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


def make_authority(folder: Path, name: str) -> SecurityConfig:
    """A certificate authority, and one certificate of it, for this machine and for clients."""
    ca, key, request, certificate = (folder / f"{name}.{kind}" for kind in ("ca", "key", "csr", "crt"))
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    _openssl(
        *("req", "-x509", *curve, "-keyout", f"{ca}.key", "-out", str(ca), "-days", "2", "-subj", "/CN=ca")
    )
    _openssl("req", *curve, "-keyout", str(key), "-out", str(request), "-subj", "/CN=localhost")
    names = folder / f"{name}.ext"
    names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    signing = ("-CA", str(ca), "-CAkey", f"{ca}.key", "-CAcreateserial", "-extfile", str(names))
    _openssl("x509", "-req", "-in", str(request), "-out", str(certificate), "-days", "2", *signing)
    return SecurityConfig(certificate_file=str(certificate), key_file=str(key), ca_file=str(ca))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SecurityConfig]:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("token", "other"):
        (folder / name).write_text(f"{name}-secret\n")
    tls, stranger = make_authority(folder, "ours"), make_authority(folder, "theirs")
    token = str(folder / "token")
    return {
        "open": SecurityConfig(),
        "token": SecurityConfig(token_file=token),
        "another token": SecurityConfig(token_file=str(folder / "other")),
        "tls": tls,
        "tls and token": msgspec.structs.replace(tls, token_file=token),
        "tls and another token": msgspec.structs.replace(tls, token_file=str(folder / "other")),
        "another authority's tls and token": msgspec.structs.replace(stranger, token_file=token),
    }


@contextmanager
def served(security: SecurityConfig) -> Iterator[tuple[Shard, ParameterServerConfig]]:
    settings = config(security=security, retry_seconds=0.1, request_seconds=5.0)
    shard = Shard(settings, 0)
    server = ShardServer(shard, "127.0.0.1", 0)
    try:
        yield (
            shard,
            msgspec.structs.replace(settings, shards=(ShardConfig(port=server.port, ops_port=1),)),
        )
    finally:
        server.shutdown()


def use_everything(settings: ParameterServerConfig) -> None:
    with ParameterClient(settings) as client:
        client.push("a", 0, {"embedding": (IDS, np.ones((20, 4), np.float32))}, 0)
        assert client.pull("embedding", IDS).shape == (20, 4)
        replica = ReplicaTables(settings)
        replica.apply([client.delta(0, None)])
        assert replica.digest("embedding", 0) == client.digest(0, "embedding")[1]
        assert client.health(0).allowed == settings.most_requests


@pytest.mark.parametrize("kind", ["open", "token", "tls", "tls and token"])
def test_whoever_has_the_same_files_is_served(files: dict[str, SecurityConfig], kind: str) -> None:
    with served(files[kind]) as (_, settings):
        use_everything(settings)


@pytest.mark.parametrize(
    ("server", "client"),
    [
        ("token", "open"),
        ("token", "another token"),
        ("tls", "open"),
        ("tls and token", "tls"),
        ("tls and token", "tls and another token"),
        ("tls and token", "another authority's tls and token"),
        ("tls and token", "token"),
        ("open", "tls"),
    ],
)
def test_whoever_has_not_is_refused_and_changes_nothing(
    files: dict[str, SecurityConfig], server: str, client: str
) -> None:
    with served(files[server]) as (shard, settings):
        stranger = msgspec.structs.replace(settings, security=files[client], request_seconds=0.5)
        with ParameterClient(stranger) as away:
            for call in (
                lambda: away.push("a", 0, {"embedding": (IDS, np.ones((20, 4), np.float32))}, 0),
                lambda: away.pull("embedding", IDS),
                lambda: away.delta(0, None),
                lambda: away.shard_state(0),
            ):
                with pytest.raises(ParameterServerError) as refusal:
                    call()
                assert "secret" not in str(refusal.value)
        assert (shard.state().clock, shard.row_counts()["embedding"]) == (0, 0)


def test_a_client_without_a_certificate_is_refused_by_mutual_tls(files: dict[str, SecurityConfig]) -> None:
    with served(files["tls"]) as (_, settings):
        credentials = read_credentials(files["tls"])
        port = settings.shards[0].port
        client = flight.FlightClient(f"grpc+tls://127.0.0.1:{port}", tls_root_certs=credentials.authority)
        with pytest.raises((flight.FlightError, pa.ArrowException, OSError)):
            list(
                client.do_action(
                    flight.Action("state", messages.encode(messages.State(0, 1))),
                    flight.FlightCallOptions(timeout=5),
                )
            )


def test_a_refusal_of_a_token_says_which_key_it_is_about(files: dict[str, SecurityConfig]) -> None:
    with served(files["token"]) as (_, settings):
        stranger = msgspec.structs.replace(settings, security=files["open"])
        with (
            ParameterClient(stranger) as client,
            pytest.raises(ParameterServerError, match=r"parameter_server\.security\.token_file"),
        ):
            client.shard_state(0)


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\n")
    cases = [
        (SecurityConfig(token_file=str(tmp_path / "none")), r"security\.token_file: .*none"),
        (SecurityConfig(token_file=str(empty)), r"security\.token_file: .* is empty"),
        (SecurityConfig(key_file="k"), r"security\.certificate_file: not given; legal are all of"),
        (SecurityConfig(certificate_file="c", key_file="k"), r"security\.ca_file: not given"),
    ]
    for security, message in cases:
        with pytest.raises(ConfigError, match=message):
            read_credentials(security)


@pytest.mark.parametrize(
    ("host", "kind", "warned"),
    [
        ("127.0.0.1", "open", False),
        ("localhost", "open", False),
        ("::1", "open", False),
        ("0.0.0.0", "open", True),  # noqa: S104
        ("shard-0", "token", True),
        ("shard-0", "tls and token", False),
    ],
)
def test_an_open_port_is_warned_of_with_the_keys_to_set(
    files: dict[str, SecurityConfig], caplog: pytest.LogCaptureFixture, host: str, kind: str, *, warned: bool
) -> None:
    with caplog.at_level(logging.WARNING):
        warn_if_open(host, read_credentials(files[kind]))
    assert ("parameter_server.security.certificate_file" in caplog.text) is warned
