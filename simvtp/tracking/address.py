"""The tracker's address: resolves, checks and displays it. Nothing here imports mlflow.

Addresses are taken apart and put together by urllib and sqlalchemy alone, never by joining text:
a path may hold `?`, `%41` or quotes, a password `/` or a space.
"""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import os
import posixpath
import re
import shlex
import socket
import ssl
import sys
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from simvtp.config.experiment_config import RuntimeConfig
from simvtp.errors import UserError
from simvtp.runs.provenance import without_credentials

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

OFF = "off"
REPLAY = "`python -m simvtp sync` replays what is missing"
SETTINGS = "runtime.tracking_uri or MLFLOW_TRACKING_URI"
_HTTP = ("http", "https")
_SQLITE = "sqlite:///"
_CONNECT_S = 3.0
_ANSWER_S = 8.0  # a busy server was seen to take 5
_NAME_LENGTH = 250  # MLflow's limit


class TrackerError(UserError):
    """The tracker cannot be reached or refuses; no metric is lost, the journals keep them."""


# ---- resolving -----------------------------------------------------------------------------------


def resolve_uri(runtime: RuntimeConfig) -> str | None:
    """Returns the absolute address of the tracker; None if tracking is off.

    It is `runtime.tracking_uri`, else $MLFLOW_TRACKING_URI, else a sqlite file in `runtime.root`.

    Raises UserError if the address is none.
    """
    named = runtime.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if named == OFF:
        return None
    return absolute_uri(named) if named else sqlite_uri(Path(runtime.root) / "mlflow.db")


def sqlite_uri(path: Path) -> str:
    """Returns the address of a sqlite file.

    The path stands in it as it is: MLflow takes it literally, sqlalchemy decodes what is
    percent-encoded. Raises UserError for a path on which the two would disagree.
    """
    database = str(path.expanduser().resolve())
    if not _is_literal(database):
        raise UserError(
            f"the tracker's file {database} has a '?' or '%' in its path, which MLflow cannot "
            f"open: choose another runtime.root, or set {SETTINGS} to another address or to off."
        )
    return _SQLITE + database


def absolute_uri(uri: str) -> str:
    """Returns an address with a relative sqlite path resolved against the working directory.

    Raises UserError for text that is no address, and for folders, which MLflow 3 no longer writes
    to.
    """
    if uri.startswith("databricks"):
        return uri
    if "://" not in uri or uri.startswith("file:"):
        raise UserError(
            f"the tracker address '{display_uri(uri)}' names a folder, and MLflow 3 keeps no runs "
            "in folders: write sqlite:///PATH/mlflow.db, http://HOST:PORT, or off "
            f"({SETTINGS})."
        )
    if uri.partition("://")[0] in _HTTP:
        _check_http(uri)
        return uri
    if uri.startswith(_SQLITE) and _is_literal(path := uri.removeprefix(_SQLITE)):
        return sqlite_uri(Path(path))
    url = _parse_database(uri)
    if url.get_backend_name() != "sqlite" or not url.database:
        return uri
    query = urllib.parse.urlencode(dict(url.query), doseq=True)
    return sqlite_uri(Path(url.database)) + (f"?{query}" if query else "")


def database_path(uri: str) -> Path | None:
    """Returns the file of a sqlite store, None for any other address."""
    if not uri.startswith("sqlite:"):
        return None
    if uri.startswith(_SQLITE) and _is_literal(path := uri.removeprefix(_SQLITE)):
        return Path(path)
    database = _parse_database(uri).database
    return Path(database) if database else None


def _is_literal(path: str) -> bool:
    """Returns True if a path is the same inside an address: nothing in it is decoded."""
    return bool(path) and not {"?", "%"} & set(path)


def display_uri(uri: str) -> str:
    """Returns the address without user name and password."""
    return without_credentials(uri)


def hide_in(text: str, uri: str) -> str:
    """Returns a text, such as another library's message, without the credentials of an address."""
    text = text.replace(uri, display_uri(uri))
    user = uri.partition("://")[2].rpartition("@")[0]
    password = user.partition(":")[2]
    for secret in (user, password, urllib.parse.unquote(password)):
        if len(secret) > 2:  # shorter ones occur by chance
            text = text.replace(secret, "***")
    return text


def _check_http(uri: str) -> None:
    try:
        parts = urllib.parse.urlsplit(uri)
        if not parts.hostname or (parts.port is not None and parts.port < 1):
            raise ValueError("there is no host or no port")
        if ":" in parts.hostname:
            ipaddress.IPv6Address(parts.hostname.partition("%")[0])
        if re.search(r"[\s\x00-\x1f\"'<>\\]", parts.netloc) or "@" in parts.path:
            raise ValueError("a character must be percent-encoded")
    except ValueError:
        raise UserError(_invalid(uri, "http://HOST:PORT")) from None  # its text quotes the address


def _parse_database(uri: str) -> URL:
    from sqlalchemy.engine import make_url  # late: it takes 0.3 s, and most runs do without it
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
        if url.port is not None and not 0 < url.port < 65536:
            raise ValueError("there is no such port")
    except (ArgumentError, ValueError):
        raise UserError(_invalid(uri, "sqlite:///PATH/mlflow.db")) from None
    return url


def _invalid(uri: str, example: str) -> str:
    return (
        f"the tracker address {display_uri(uri)} is not a valid URL ({SETTINGS}): write it like "
        f"{example}, an IPv6 host in brackets, a port between 1 and 65535, and characters such as "
        "'/', '@' or a space in a user name or password percent-encoded (%2F, %40, %20)."
    )


# ---- reaching it ---------------------------------------------------------------------------------


def require_answer(uri: str) -> None:
    """Raises TrackerError within seconds if an http address does not answer.

    mlflow's own retries would take minutes. Any answer will do: a server that wants a log-in, or
    has no such page, is there.
    """
    if uri.partition("://")[0] not in _HTTP:
        return
    _check_http(uri)
    parts = urllib.parse.urlsplit(uri)
    host = parts.hostname or ""
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return  # a direct connection would say nothing about the way through the proxy
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(host, parts.port, timeout=_CONNECT_S)
    try:
        connection.connect()
        connection.sock.settimeout(_ANSWER_S)
        connection.request("GET", f"{parts.path.rstrip('/')}/health")
        connection.getresponse()
    except ssl.SSLError:
        return  # the server is there; mlflow knows which certificates to trust
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        reason = hide_in(str(error), uri)
        raise TrackerError(
            f"the tracker at {display_uri(uri)} does not answer ({reason}): "
            f"start it, or set another address by {SETTINGS}; nothing is lost, {REPLAY}."
        ) from (error if reason == str(error) else None)
    finally:
        connection.close()


# ---- names and pages -----------------------------------------------------------------------------


def mlflow_name(name: str) -> str:
    """Returns a metric name that MLflow accepts, of at most 250 characters.

    `R@1` becomes `R1`, other forbidden characters become `_`.
    """
    text = re.sub(r"[^A-Za-z0-9_\-. :/]", "_", name.replace("@", ""))
    text = posixpath.normpath("/".join(part for part in text.split("/") if part.strip(". ")))
    if text == ".":
        return "unnamed"
    if len(text) > _NAME_LENGTH:
        text = f"{text[: _NAME_LENGTH - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return text


def ui_command(uri: str, port: int = 5000) -> str:
    """Returns the command that opens the MLflow UI on this store.

    It listens on the first free port from `port` on, at 127.0.0.1 only: it has no log-in.
    """
    if uri.partition("://")[0] in _HTTP:
        return f"python -m webbrowser {shlex.quote(display_uri(uri))}"
    return (
        f"{_mlflow_program()} ui --backend-store-uri {shlex.quote(uri)} "
        f"--host 127.0.0.1 --port {free_port(port)}"
    )


def free_port(first: int = 5000) -> int:
    """Returns the first of a hundred ports from `first` on that nothing listens on.

    If there is none, the system chooses one.
    """
    for port in (*range(first, min(first + 100, 65536)), 0):
        with socket.socket() as probe:
            try:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise UserError("no free port on 127.0.0.1: close a program that listens, then try again.")


def _mlflow_program() -> str:
    """Returns `mlflow` of the running environment, which need not be on the PATH.

    Relative to the working directory where that is shorter to read.
    """
    program = Path(sys.executable).with_name("mlflow")
    if not program.exists():
        return f"{shlex.quote(sys.executable)} -m mlflow"
    here = Path.cwd()
    return shlex.quote(str(program.relative_to(here) if program.is_relative_to(here) else program))
