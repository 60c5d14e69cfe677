"""Putting a finished model into a Hub repository.

Promises that the repository is known to be writable before the training starts, and that only what belongs to the
model is sent: never training arguments, optimizer states or anything hidden.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi

from gemma_ft.config import PublishConfig
from gemma_ft.errors import HubError
from gemma_ft.hub.access import hub_errors

MODEL_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "README.md"]


def ensure_repo(publish: PublishConfig, token: str | None) -> str:
    """Create the repository if need be and return its full name (`owner/name`). Raises `HubError`."""
    if not token:
        raise HubError(
            "Publishing needs a Hub token.",
            "Give one with write access, or leave publish.repo empty.",
            kind="token",
            title="A token is needed",
        )
    with hub_errors(f"Creating {publish.repo}"):
        url = HfApi().create_repo(str(publish.repo), private=publish.private, exist_ok=True, token=token)
        HfApi().auth_check(url.repo_id, token=token, write=True)
    return url.repo_id


def upload_model(folder: Path, repo_id: str, token: str | None) -> str:
    """Send the model in one commit and return the commit's address. Raises `HubError`."""
    with hub_errors(f"Uploading to {repo_id}"):
        commit = HfApi().upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            allow_patterns=MODEL_FILES,
            commit_message="Upload the tuned model",
            token=token,
        )
    return commit.commit_url
