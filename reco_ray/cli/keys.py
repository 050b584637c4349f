"""`reco keys`: make, list, rotate and revoke the API keys of the gateway.

A new key is the only line on stdout, so that it can be piped into a secret store; it cannot be shown again. Gateways follow
within about a second.
"""

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reco_ray.cli.options import Overrides, configure
from reco_ray.cluster import embedded_store
from reco_ray.config import Auth, PipelineConfig
from reco_ray.store import KeyStore, OnlineStore, Scope, new_key

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="API keys of the gateway: make, list, rotate, revoke.")

_DAY_S = 86_400.0
_Scopes = typer.Option(..., "--scope", help="What the key is for; give it once for each scope.")
_Id = typer.Argument(..., help="As `reco keys list` shows it.", show_default=False)


@app.command()
def create(
    name: str = typer.Argument(..., help="Who uses the key.", show_default=False),
    scopes: list[Scope] = _Scopes,
    rate: float = typer.Option(0.0, min=0, help="Requests per second and gateway replica; 0 means serve.key_rate."),
    burst: int = typer.Option(0, min=0, help="Requests at once and gateway replica; 0 means serve.key_burst."),
    expires_days: float = typer.Option(0.0, min=0, help="Days until the key ends; 0 means never."),
    overrides: list[str] | None = Overrides,
) -> None:
    """Make a key and print it, once."""
    config, now = configure(overrides), time.time()
    expires_ts = now + expires_days * _DAY_S if expires_days else 0.0
    record, key = new_key(name, scopes, now, expires_ts=expires_ts, rate=rate, burst=burst)
    with _keys(config) as keys:
        keys.add(record)
    typer.echo(key)
    _say(f"key {record.key_id} for {', '.join(record.scopes)}; this is the only time that it is shown")
    if config.serve.auth is Auth.off:
        _say("serve.auth is off in this configuration: the gateway asks for no key")


@app.command("list")
def list_(overrides: list[str] | None = Overrides) -> None:
    """Show the keys, oldest first, without their secrets."""
    now = time.time()
    table = Table(title="API keys, times in UTC")
    for label in ("id", "name", "scopes", "created", "expires", "state"):
        table.add_column(label, no_wrap=label in ("id", "state"), overflow="fold")
    with _keys(configure(overrides)) as keys:
        for record in keys.all():
            expires = _utc(record.expires_ts) if record.expires_ts else "never"
            scopes = ", ".join(record.scopes)
            table.add_row(record.key_id, escape(record.name), scopes, _utc(record.created_ts), expires, record.state(now))
    Console().print(table)


@app.command()
def rotate(
    key_id: str = _Id,
    grace_minutes: float = typer.Option(60.0, min=0, help="How long the old secret still works; 0 ends it at once."),
    overrides: list[str] | None = Overrides,
) -> None:
    """Give a key a new secret and print it, once."""
    with _keys(configure(overrides)) as keys:
        record, key = keys.rotate(key_id, time.time(), grace_minutes * 60)
    typer.echo(key)
    until = f"works until {_utc(record.old_until_ts)} UTC" if record.old_until_ts else "has ended"
    _say(f"key {record.key_id} has a new secret, shown this once; the one before {until}")


@app.command()
def revoke(key_id: str = _Id, overrides: list[str] | None = Overrides) -> None:
    """End a key at once and for good."""
    with _keys(configure(overrides)) as keys:
        keys.revoke(key_id, time.time())
    _say(f"key {key_id} is revoked; gateways refuse it within about a second")


@contextlib.contextmanager
def _keys(config: PipelineConfig) -> Iterator[KeyStore]:
    with embedded_store(config) as url, OnlineStore(url, config.store.namespace) as store:
        yield store.keys


def _utc(ts: float) -> str:
    return f"{datetime.fromtimestamp(ts, UTC):%Y-%m-%d %H:%M}"


def _say(text: str) -> None:
    typer.echo(text, err=True)
