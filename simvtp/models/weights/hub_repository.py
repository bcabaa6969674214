"""Repositories of the Hugging Face hub: the only place that asks huggingface_hub for files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from simvtp.errors import CheckpointError, UserError

NAME = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")  # user/name


def is_hub_name(text: str) -> bool:
    """Returns True if a text is `user/name`, and no local folder has the name `user`."""
    return bool(NAME.fullmatch(text)) and not Path(text.split("/", 1)[0]).exists()


def hub_folder(name: str, revision: str = "", patterns: Sequence[str] | None = None) -> Path:
    """Returns the local folder of a repository; files that the cache lacks are downloaded.

    Without a connection, or with HF_HUB_OFFLINE=1, a complete copy in the cache is taken.

    Args:
        name: `user/name`, or a name of the hub's own models.
        revision: branch, tag or commit; empty: the newest.
        patterns: files that are needed, with wildcards; None: all.

    Raises:
        CheckpointError: it cannot be reached and is not in the cache, or there is none.
    """
    shown = f"{name}@{revision}" if revision else name
    help_text = (
        f"'{shown}' is not a local folder and cannot be downloaded from the hub; "
        "download it elsewhere and give the path of the folder"
    )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(f"{help_text} (huggingface_hub is not installed).") from error
    chosen = None if patterns is None else list(patterns)
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=chosen))
    except _errors() as error:
        raise CheckpointError(f"{help_text} ({first_line(error)}).") from error


def push_folder(folder: Path, name: str, *, private: bool = False, message: str) -> str:
    """Uploads all files of a folder in one commit, and returns its address.

    The repository is created if there is none.

    Args:
        folder: the files.
        name: `user/name`.
        private: of a new repository.
        message: of the commit.

    Raises:
        UserError: nobody is logged in, the hub cannot be reached, or it refuses.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"'{name}' is no name of a repository: give user/name.")
    try:
        from huggingface_hub import HfApi, get_token
    except ImportError as error:
        raise UserError(
            f"{folder} cannot be uploaded: huggingface_hub is not installed "
            "(`pip install huggingface_hub`)."
        ) from error
    if not get_token():
        raise UserError(
            f"{folder} is not uploaded to {name}: nobody is logged in to the hub; run `hf auth "
            "login` or set HF_TOKEN."
        )
    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=name, folder_path=folder, commit_message=message)
    except _errors() as error:
        raise UserError(
            f"{folder} is not uploaded to {name}: the hub cannot be reached or refuses it "
            f"({first_line(error)})."
        ) from error
    return str(done.commit_url)


def _errors() -> tuple[type[Exception], ...]:
    """Returns the errors of the hub, of the connection and of a name."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # the first base of an answer's error is that of the HTTP library, which versions differ in
    return (OSError, ValueError, HFValidationError, *HfHubHTTPError.__bases__)


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
