"""Published weights: files of the Hugging Face hub and of torchvision, from the local cache, else downloaded."""

from __future__ import annotations

import re
import socket
import urllib.parse
import urllib.request
from pathlib import Path

import huggingface_hub
import torch
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

from sapling.errors import ModelError


def fetch(repo: str, filename: str) -> str:
    """Find or download a file of ``repo`` (``owner/name`` or ``owner/name@revision``); give its path.

    Raises:
        ModelError: neither in the cache nor to be had; the message says how to go on offline.
    """
    repo, _, revision = repo.partition("@")
    try:
        cached = huggingface_hub.try_to_load_from_cache(repo, filename, revision=revision or None)
    except ValueError as error:
        raise ModelError(
            f"{repo!a} is no name on the hub", allowed="hf-hub:owner/name, or owner/name@revision"
        ) from error
    if isinstance(cached, str):
        return cached
    if constants.HF_HUB_OFFLINE:
        raise unreachable(repo, "HF_HUB_OFFLINE is set")
    _resolve_host(constants.ENDPOINT, repo)
    try:
        return str(huggingface_hub.hf_hub_download(repo, filename, revision=revision or None))
    except LocalEntryNotFoundError as error:
        raise unreachable(repo, str(error).splitlines()[0]) from error
    except RepositoryNotFoundError as error:
        raise ModelError(f"the hub has no {repo!r}, or it is private", remedy="check owner/name") from error
    except EntryNotFoundError as error:
        raise ModelError(
            f"{repo} has no {filename}",
            where="Hugging Face hub",
            allowed="config.json and model.safetensors; pickled weights (.bin, .pth) are not read",
        ) from error
    except (OSError, ValueError) as error:
        raise unreachable(repo, (str(error).splitlines() or [type(error).__name__])[0]) from error


def fetch_url(url: str) -> Path:
    """Find or download a file that torch keeps (``torch.hub.get_dir()``); its name holds the start of its sha256.

    Raises:
        ModelError: neither in the cache nor to be had, or not the file that its name promises.
    """
    name = Path(urllib.parse.urlparse(url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file():
        return path
    if constants.HF_HUB_OFFLINE:
        raise unreachable(name, "HF_HUB_OFFLINE is set")
    _resolve_host(url, name)
    promised = re.search(r"-([a-f0-9]{8,})\.", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # under a temporary name first; a file of another hash is refused
        torch.hub.download_url_to_file(url, str(path), promised.group(1) if promised else None, progress=False)
    except RuntimeError as error:
        raise ModelError(f"{name} is not the file that its name promises: {error}", where=url) from error
    except (OSError, ValueError) as error:
        raise unreachable(name, str(error) or type(error).__name__) from error
    return path


def _resolve_host(url: str, what: str) -> None:
    """Clients try for half a minute; where the name cannot even be resolved, say so at once."""
    host = urllib.parse.urlparse(url).hostname or ""
    if not urllib.request.getproxies():
        try:
            socket.getaddrinfo(host, 443)
        except OSError as error:
            raise unreachable(what, f"{host}: {error}") from error


def unreachable(what: str, reason: str) -> ModelError:
    """Make the error for weights that are neither in the cache nor to be downloaded."""
    return ModelError(
        f"the published weights of {what} are not on this machine and cannot be downloaded",
        where=reason,
        remedy="connect once (or copy the cache folder and set HF_HOME), or start from random weights: "
        "pretrained=False, and a name without hf-hub:",
    )
