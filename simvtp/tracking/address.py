"""Where the tracker is, whether it answers, and what may be the name of a metric. Nothing here
imports mlflow.
"""

from __future__ import annotations

import hashlib
import http.client
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

from simvtp.config.experiment_config import RuntimeConfig
from simvtp.errors import UserError
from simvtp.runs.provenance import without_url_users

OFF = "off"
REPLAY = "`python -m simvtp sync` replays what is missing"
_SQLITE = "sqlite:///"
_CONNECT_S = 3.0
_ANSWER_S = 8.0  # a busy server was seen to take 5
_NAME_LENGTH = 250  # MLflow's limit


class TrackerError(UserError):
    """The tracker cannot be reached or refuses; no measurement is lost, the journals keep them."""


def resolve_uri(runtime: RuntimeConfig) -> str | None:
    """The absolute address of the tracker: `runtime.tracking_uri`, $MLFLOW_TRACKING_URI, or sqlite
    in `runtime.root`; "off" is None.
    """
    named = runtime.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if named == OFF:
        return None
    return absolute_uri(
        named or f"{_SQLITE}{Path(runtime.root).expanduser().resolve() / 'mlflow.db'}"
    )


def absolute_uri(uri: str) -> str:
    """A relative sqlite path is resolved against the working directory; folders, which MLflow 3 no
    longer writes to, raise UserError.
    """
    if uri.startswith(_SQLITE):
        return f"{_SQLITE}{Path(uri.removeprefix(_SQLITE)).expanduser().resolve()}"
    if ("://" not in uri and not uri.startswith("databricks")) or uri.startswith("file:"):
        raise UserError(
            f"the tracker address '{uri}' names a folder, and MLflow 3 keeps no runs in folders: "
            "write sqlite:///PATH/mlflow.db, http://HOST:PORT, or off (runtime.tracking_uri or MLFLOW_TRACKING_URI)."
        )
    return uri


def database_path(uri: str) -> Path | None:
    """The file of a sqlite store, None for any other address."""
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None


def shown(uri: str) -> str:
    """The address without user name and password."""
    return without_url_users(uri)


def require_answer(uri: str) -> None:
    """Raise TrackerError within seconds if nothing listens at an http address, or takes the
    connection and says nothing.

    mlflow's own retries would take minutes. Any answer will do: a server that wants a log-in, or
    has no such page, is there.
    """
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return
    behind_proxy = parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(
        parts.hostname
    )
    if behind_proxy:
        return  # a direct connection would say nothing about the way through the proxy
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=_CONNECT_S)
    try:
        connection.connect()
        connection.sock.settimeout(_ANSWER_S)
        connection.request("GET", f"{parts.path.rstrip('/')}/health")
        connection.getresponse()
    except ssl.SSLError:
        return  # it is there; which certificates to trust is known to mlflow
    except (OSError, http.client.HTTPException) as error:
        raise TrackerError(
            f"the tracker at {shown(uri)} does not answer ({error}): start it, or give another address by runtime.tracking_uri "
            f"or MLFLOW_TRACKING_URI; nothing is lost, {REPLAY}."
        ) from error
    finally:
        connection.close()


def metric_name(name: str) -> str:
    """A name that MLflow accepts: `R@1` becomes `R1`, other forbidden characters `_`; at most 250
    characters.
    """
    text = re.sub(r"[^A-Za-z0-9_\-. :/]", "_", name.replace("@", ""))
    text = posixpath.normpath("/".join(part for part in text.split("/") if part.strip(". ")))
    if text == ".":
        return "unnamed"
    if len(text) > _NAME_LENGTH:
        text = f"{text[: _NAME_LENGTH - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return text


def ui_command(uri: str, port: int = 5000) -> str:
    """The command that opens the MLflow UI on this store, on the first free port from `port` on
    (127.0.0.1 only: it has no log-in).
    """
    if uri.startswith(("http://", "https://")):
        return f"python -m webbrowser {shlex.quote(shown(uri))}"
    return f"{_mlflow_program()} ui --backend-store-uri {shlex.quote(uri)} --host 127.0.0.1 --port {free_port(port)}"


def free_port(first: int = 5000) -> int:
    """The first port from `first` on that nothing listens on, of a hundred; after them whichever
    the system gives.
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
    """`mlflow` of the running environment, which need not be on the PATH; relative where that is
    shorter to read.
    """
    program = Path(sys.executable).with_name("mlflow")
    if not program.exists():
        return f"{shlex.quote(sys.executable)} -m mlflow"
    here = Path.cwd()
    return shlex.quote(str(program.relative_to(here) if program.is_relative_to(here) else program))
