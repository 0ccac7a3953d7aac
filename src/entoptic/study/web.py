"""What every address of the server reads from a request."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request

from entoptic.base.records import parse_json
from entoptic.errors import Unreadable
from entoptic.study.bodies import Refused
from entoptic.study.stimuli import is_name


async def json_body(request: Request) -> dict[str, Any]:
    """Returns the JSON object that was sent.

    Raises:
        Refused: it is none.
    """
    try:
        return parse_json(await request.body(), "the body")
    except Unreadable as error:
        raise Refused(400, "body", str(error)) from None


def bearer_token(request: Request) -> str:
    """Returns the token of a request.

    Raises:
        Refused: there is none, or it is of another form.
    """
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not is_name(value):
        raise Refused(401, "token", "this needs the token of a session")
    return value


Body = Annotated[dict[str, Any], Depends(json_body)]
Token = Annotated[str, Depends(bearer_token)]
