"""The interface between the pages (or any client) and the server, as JSON over HTTP.

Every body is a JSON object of at most 16 kB with `Content-Type: application/json`. A person is known by a token of 128
bits, which the claim returns once and which is sent as `Authorization: Bearer TOKEN`. There are no cookies. Requests with
an `Origin` header of another site are refused (403). Errors are `{"error": CODE, "message": SENTENCE}`.

    GET  /                               the page; its parameters are read by the page and sent with the claim
    GET  /api/study                      -> {"title", "manifest", "languages", "minutes", "consent": {..}, "payment", "open"}
    GET  /api/wording/LANG               -> {KEY: TEXT}
    POST /api/claim                      {"parameters": {"PROLIFIC_PID": ..}, "language", "consent": true, "open_data",
                                          "website": ""}  (the last one is the field that people do not see)
                                         -> {"token", "session": SESSION}; 409 "taken" for an identifier that has a place,
                                          409 "full" where no place is left, 403 "closed", 403 "preview" (MTurk's preview)
    GET  /api/session                    -> SESSION. `?reload=1` counts a reload of the current trial
    POST /api/instructions               {"seconds"} ends the instructions -> SESSION
    POST /api/continue                   {} ends a break -> SESSION
    GET  /api/trials/ID/pictures/N       picture N of a trial that was disclosed (current or next three), image/png
    POST /api/answers                    {"trial", "nonce", "choice" | "rating" | "text" | "not_sure" | "technical",
                                          "confidence", "shown_ms", "answered_ms", "focus_losses", "viewport": [w, h],
                                          "pixel_ratio", "pasted"}
                                         -> {"stored": true, "right": true | false | null, "session": SESSION}
    POST /api/questions                  {"comments", "automated": false} the questions at the end -> SESSION
    POST /api/finish                     {} -> {"code", "redirect"}; only in the stage "finished" or "screened-out"
    POST /api/withdraw                   {} deletes the answers -> SESSION

The same answer sent again (same trial, nonce and content) gets the same reply. Another answer to an answered trial is
refused (409 "answered"), an answer out of order too (409 "order"). `right` is told of practice trials only: elsewhere it
would teach. SESSION is

    {"stage": "instructions" | "practice" | "trials" | "break" | "questions" | "finished" | "screened-out" | "withdrawn",
     "language", "done": answered main and catch trials, "total", "tasks": [TASK_KIND in their order],
     "practice": {"round", "rounds"}, "trial": TRIAL or null, "next": up to three TRIALs to load}

and TRIAL, which never says what is right, which arm it is or whether it is a catch trial,

    {"id", "task", "practice": bool, "word", "scale", "confidence", "not_sure", "min_ms",
     "pictures": [{"n", "role": "target" | "reference" | "high" | "low" | "query" | "option", "width", "height"}]}

Choices count the pictures of role "query" or "option" from 0 in the order given. A client that stands for a person in
a test sends the parameter `SIMULATED` with its identifier; its answers have the source "simulated".

Platforms: Prolific's `PROLIFIC_PID`, `STUDY_ID`, `SESSION_ID`; MTurk's `workerId`, `assignmentId`, `hitId`. Without any of
them the person comes by "link", and every claim is a new person.

    POST /admin/api/status | close | open | export     with `Authorization: Bearer ADMIN_TOKEN`
"""

from __future__ import annotations

BODY_LIMIT = 16 * 1024
"""Bytes of a request's body at most."""
TEXT_LIMIT = 500
"""Characters of a written answer at most."""
PRELOADED = 3
"""Trials that are disclosed before they are shown."""
