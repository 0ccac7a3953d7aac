"""Keys and codes of a study's server: `private.json`, which only its owner can read and which is never published."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, replace
from pathlib import Path

from entoptic.base.files import UNFINISHED, json_bytes, path_exists
from entoptic.base.records import read_json
from entoptic.study.json_form import from_json, to_json

FILE = "private.json"
TOKEN_BYTES = 16
"""128 bits."""


@dataclass(frozen=True, kw_only=True)
class Private:
    """What the server alone knows.

    Attributes:
        identifier_key: key of the hashes of identifiers.
        admin_sha256: of the token of the admin page.
        completion_code: that the platform expects from those who finish.
        screened_out_code: from those whose practice failed.
        completion_url: where they return to; "{code}" stands for the code, "" for no link.
    """

    identifier_key: str
    admin_sha256: str
    completion_code: str
    screened_out_code: str
    completion_url: str = ""


def open_private(
    study_folder: Path, *, completion_code: str = "", screened_out_code: str = "", completion_url: str = ""
) -> tuple[Private, str]:
    """Returns the private record of a study, made where there is none, and the admin token where it is new.

    Args:
        study_folder: of the study.
        completion_code: instead of the stored one.
        screened_out_code: instead of the stored one.
        completion_url: instead of the stored one.

    Raises:
        UserError: it cannot be read.
    """
    file = study_folder / FILE
    token = ""
    if path_exists(file):
        private = from_json(Private, read_json(file), str(file))
    else:
        token = secrets.token_hex(TOKEN_BYTES)
        private = Private(
            identifier_key=secrets.token_hex(32),
            admin_sha256=sha256_of_token(token),
            completion_code=_code(),
            screened_out_code=_code(),
        )
    given = {
        "completion_code": completion_code, "screened_out_code": screened_out_code, "completion_url": completion_url,
    }  # fmt: skip
    wanted = replace(private, **{name: value for name, value in given.items() if value})
    if wanted != private or token:
        write_private(study_folder, wanted)
    return wanted, token


def replace_admin_token(study_folder: Path, private: Private) -> tuple[Private, str]:
    """Replaces the token of the admin page; returns the record and the token, which is stored nowhere."""
    token = secrets.token_hex(TOKEN_BYTES)
    changed = replace(private, admin_sha256=sha256_of_token(token))
    write_private(study_folder, changed)
    return changed, token


def write_private(study_folder: Path, private: Private) -> None:
    """Stores the record, readable by its owner only."""
    part = study_folder / f".{FILE}{UNFINISHED}"
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(json_bytes(to_json(private)))
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, study_folder / FILE)


def sha256_of_token(token: str) -> str:
    """Returns what is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def same_token(token: str, stored_sha256: str) -> bool:
    """Whether a token is the one whose hash is stored; takes as long for a wrong one as for the right one."""
    return hmac.compare_digest(sha256_of_token(token), stored_sha256)


def identifier_hash(private: Private, platform: str, identifier: str) -> str:
    """Returns the keyed hash of a person's identifier on a platform."""
    return hmac.new(
        bytes.fromhex(private.identifier_key), f"{platform}:{identifier}".encode(), hashlib.sha256
    ).hexdigest()


def personal_code(private: Private, session: str) -> str:
    """Returns a completion code of one session, which nobody else can guess."""
    key = bytes.fromhex(private.identifier_key)
    return hmac.new(key, f"code:{session}".encode(), hashlib.sha256).hexdigest()[:10].upper()


def _code() -> str:
    return secrets.token_hex(4).upper()
