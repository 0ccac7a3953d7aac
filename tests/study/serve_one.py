"""Serves a study in a process of its own, to be killed: `python serve_one.py STUDY PORT`."""

from __future__ import annotations

import sys

from entoptic.study.server import bind, make_app, run

if __name__ == "__main__":
    app = make_app(sys.argv[1])
    run(app, bind("127.0.0.1", int(sys.argv[2])))
