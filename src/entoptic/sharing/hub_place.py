"""A repository of the Hugging Face hub, through huggingface_hub. The token is the user's login; nothing here reads or keeps it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from entoptic.base.files import write_atomically, writing_to
from entoptic.errors import NotAvailable
from entoptic.sharing.places import SharedFile
from entoptic.sharing.retries import asked, status_of

DEFAULT = "https://huggingface.co"
_BLOCK = 2**20


class HubPlace:
    """A dataset, or a static Space, of the hub.

    Args:
        repo: USER/NAME.
        space: whether it is a Space.
    """

    def __init__(self, repo: str, *, space: bool = False) -> None:
        self.repo, self.kind = repo, "space" if space else "dataset"
        self.endpoint = os.environ.get("HF_ENDPOINT", DEFAULT).rstrip("/")
        self.name = self.public = f"hf:{repo}"
        self.address = f"{self.endpoint}/{self.kind}s/{repo}"

    @cached_property
    def _api(self) -> Any:
        try:
            from huggingface_hub import HfApi
        except ImportError:
            raise NotAvailable("sharing on the hub needs huggingface_hub; `pip install huggingface_hub`") from None
        return HfApi(endpoint=self.endpoint, library_name="entoptic")

    def listing(self) -> dict[str, SharedFile]:
        """Returns the files that are there by name; none where there is no such repository."""

        def ask() -> dict[str, SharedFile]:
            found = {}
            try:
                for one in self._api.list_repo_tree(self.repo, recursive=True, repo_type=self.kind):
                    size = getattr(one, "size", None)
                    if size is None:  # a folder
                        continue
                    lfs = getattr(one, "lfs", None)
                    sha256 = str(lfs.sha256) if lfs is not None else ""
                    found[one.path] = SharedFile(
                        name=one.path, size=int(size), sha256=sha256, blob=str(one.blob_id or "")
                    )
            except Exception as error:
                if status_of(error) == 404:
                    return {}
                raise
            return found

        return asked(ask, f"{self.name} cannot be listed")

    def prepare(self, *, private: bool) -> None:
        """Makes the repository where it is not there."""
        more = {"space_sdk": "static"} if self.kind == "space" else {}
        asked(
            lambda: self._api.create_repo(self.repo, repo_type=self.kind, private=private, exist_ok=True, **more),
            f"{self.name} cannot be made",
        )

    def send(self, files: Mapping[str, Path], message: str) -> None:
        """Stores files in one commit."""
        from huggingface_hub import CommitOperationAdd
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()

        def ask() -> None:
            adds = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(file)) for name, file in files.items()]
            self._api.create_commit(
                self.repo, operations=adds, commit_message=message, repo_type=self.kind, num_threads=2
            )

        asked(ask, f"files cannot be stored in {self.name}; what is there already stays")

    def fetch(self, file: SharedFile, target: Path) -> None:
        """Downloads a file."""
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        url = hf_hub_url(self.repo, file.name, repo_type=self.kind, endpoint=self.endpoint)

        def ask() -> None:
            def write(part: Path) -> None:
                # Another host, to which large files are redirected, does not get the token: httpx leaves it out.
                with get_session().stream("GET", url, headers=build_hf_headers(), follow_redirects=True) as answer:
                    answer.raise_for_status()
                    with part.open("wb") as stream:
                        for block in answer.iter_bytes(_BLOCK):
                            stream.write(block)

            write_atomically(target, write)

        with writing_to(target.parent):
            asked(ask, f"{file.name} cannot be fetched from {self.name}")
