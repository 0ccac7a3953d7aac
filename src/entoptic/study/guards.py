"""What stands between the network and the study: origins, sizes, rates, headers, and cells of tables."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from entoptic.errors import UserError
from entoptic.study.protocol import BODY_LIMIT

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
_ORIGIN = re.compile(r"(https?://(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?)/?")

ADMIN = "/admin/api/"
"""Addresses at which wrong tokens are counted. Behind a proxy all people have one address, so it is not done elsewhere."""
MOST_KEYS = 50_000
"""Tokens or addresses whose requests are counted at once."""
LONGEST_TOKEN = 128
"""Characters of an `Authorization` header; the tokens of a study have 39."""
_FORMULA = frozenset("=+-@|%\t\r\n\0＝＋－＠")


def csv_cell(text: str) -> str:
    """Returns a text as a cell that no spreadsheet takes for a formula: such a text gets an apostrophe in front.

    Blanks and signs that cannot be seen are passed over, as some spreadsheets do; full-width signs count like the others.
    """
    if text[:1] in _FORMULA and text:
        return f"'{text}"
    seen = next((c for c in text if c.isprintable() and not c.isspace()), "")
    return f"'{text}" if seen and seen in _FORMULA else text


def check_origin(address: str, option: str) -> str:
    """Returns the origin of a site, such as "https://lab.example.org".

    Args:
        address: as it was given.
        option: that it was given for, without dashes.

    Raises:
        UserError: it is no origin.
    """
    found = _ORIGIN.fullmatch(address.strip().lower())
    if found is None:
        raise UserError(f'--{option} must be addresses such as https://lab.example.org, got "{address[:80]}"')
    return found[1]


class Allowance:
    """How many requests each key may still send: a bucket that fills with time. It is kept in memory only.

    Args:
        rate: requests a second, in the long run.
        burst: requests at once.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst = rate, burst
        self._left: dict[str, tuple[float, float]] = {}
        self._turn = threading.Lock()

    def take(self, key: str, clock: float | None = None) -> bool:
        """Whether one more request of a key is allowed.

        Args:
            key: who asks.
            clock: seconds; None reads the monotonic clock.
        """
        now = time.monotonic() if clock is None else clock
        with self._turn:
            if (
                len(self._left) >= MOST_KEYS
            ):  # the full ones need not be remembered, nor those that were silent for longest
                spent = [(k, v) for k, v in self._left.items() if v[0] + (now - v[1]) * self.rate < self.burst]
                self._left = dict(sorted(spent, key=lambda one: one[1][1])[-MOST_KEYS // 2 :])
            left, before = self._left.get(key, (self.burst, now))
            left = min(self.burst, left + (now - before) * self.rate)
            self._left[key] = (left - 1 if left >= 1 else left, now)
            return left >= 1

    def is_spent(self, key: str) -> bool:
        """Whether no further request of a key is allowed now; asking costs nothing."""
        with self._turn:
            left, before = self._left.get(key, (self.burst, 0.0))
        return left + (time.monotonic() - before) * self.rate < 1


class Guard:
    """Middleware: refuses requests of other sites, of other kinds, too large or too many, and sets the headers.

    Args:
        app: behind it.
        origins: further origins that may post, such as "https://study.example.org" behind a proxy.
        frames: origins of platforms that may show the study in a frame.
        rate: requests a second of one token.
        burst: requests of one token at once.
    """

    def __init__(
        self, app: App, *, origins: Iterable[str] = (), frames: Iterable[str] = (), rate: float = 30, burst: float = 120
    ) -> None:
        self.app, self.origins = app, {one.rstrip("/").lower() for one in origins}
        self.allowance, self.strangers = Allowance(rate, burst), Allowance(1, 60)
        self.headers, self.admin_headers = _headers(" ".join(frames)), _headers("")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        address = (scope.get("client") or ("", 0))[0]

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] == 401 and scope["path"].startswith(ADMIN):
                    self.strangers.take(address)
                own = self.admin_headers if scope["path"].startswith("/admin") else self.headers
                message["headers"] = [*message.get("headers", []), *own]
            await send(message)

        refused = self._refusal(scope, headers, address)
        if refused is None and scope["method"] == "POST":
            body = await _body(receive)
            if body is None:
                refused = (413, "size", f"a body has at most {BODY_LIMIT} bytes")
            else:
                receive = _again(body)
        if refused is not None:
            await _refuse(answer, *refused)
            return
        await self.app(scope, receive, answer)

    def _refusal(self, scope: Scope, headers: dict[str, str], address: str) -> tuple[int, str, str] | None:
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "method", "use GET or POST"
        token = headers.get("authorization", "")
        if len(token) > LONGEST_TOKEN:
            return 401, "token", "this needs the token of a session"
        if token and not self.allowance.take(token):
            return 429, "rate", "too many requests; wait a moment"
        if scope["path"].startswith(ADMIN) and self.strangers.is_spent(address):
            return 429, "rate", "too many requests with wrong tokens; wait a minute"
        if scope["method"] != "POST":
            return None
        if not self._same_site(headers):
            return 403, "origin", "requests of other sites are refused"
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return 415, "type", "a body must be application/json"
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or len(length) > 9 or int(length) > BODY_LIMIT:
            return 413, "size", f"a body has at most {BODY_LIMIT} bytes"
        return None

    def _same_site(self, headers: dict[str, str]) -> bool:
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return headers.get("origin", "").lower() in self.origins
        origin = headers.get("origin")
        if origin is None:
            return True
        if origin.lower() in self.origins:
            return True
        scheme, _, site = origin.lower().partition("://")
        return scheme in ("http", "https") and site != "" and site == headers.get("host", "").lower()


def _headers(platforms: str) -> list[tuple[bytes, bytes]]:
    frames = platforms or "'none'"
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        f"base-uri 'none'; form-action 'none'; frame-ancestors {frames}"
    )
    named = {
        "content-security-policy": policy, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
        "cache-control": "no-store", "cross-origin-resource-policy": "same-origin", "permissions-policy": "interest-cohort=()",
    }  # fmt: skip
    if not platforms:
        named["x-frame-options"] = "DENY"
    return [(name.encode(), value.encode()) for name, value in named.items()]


async def _body(receive: Receive) -> bytes | None:
    """The whole body, None where it is larger than the limit, whatever its header said."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        part = message.get("body", b"")
        size += len(part)
        if size > BODY_LIMIT:
            return None
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def _again(body: bytes) -> Receive:
    """A body that was read, to be read by the app."""
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _refuse(send: Send, status: int, code: str, message: str) -> None:
    content = json.dumps({"error": code, "message": message}).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": content})
