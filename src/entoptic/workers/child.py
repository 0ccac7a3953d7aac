"""A worker process: reads its setup and chunks from stdin, writes answers to stdout. Started by `entoptic.workers.local`."""

from __future__ import annotations

import os
import queue
import sys
import threading
import warnings
from typing import Any

from entoptic.errors import UserError
from entoptic.workers import frames
from entoptic.workers.making import begin, make
from entoptic.workers.records import Done, Lost, Ready, Refused


def main() -> None:
    """Works until the job closes stdin."""
    commands = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not stand between the answers
    setup = frames.receive(commands)
    sys.path[:] = setup.path
    waiting: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_listen, args=(commands, waiting), daemon=True).start()
    try:
        handler = begin(setup.work, setup.device, setup.threads)
    except UserError as error:
        frames.send(answers, Refused(worker="", reason=str(error)))
        return
    except Exception as error:
        frames.send(answers, Refused(worker="", reason=f"a worker could not begin ({type(error).__name__}: {error})"))
        return
    frames.send(answers, Ready(worker=""))
    with warnings.catch_warnings():
        while True:
            try:
                make(handler, waiting.get(), lambda answer: frames.send(answers, answer))
            except Exception as error:  # a defect, or a device that is lost: another process goes on
                frames.send(answers, Lost(worker="", reason=f"{type(error).__name__}: {error}"))
                return
            frames.send(answers, Done(worker=""))


def _listen(commands: Any, waiting: queue.Queue[Any]) -> None:
    """Puts chunks into the queue; ends the process at once when the job has ended or wants no more."""
    try:
        while True:
            waiting.put(frames.receive(commands))
    except (EOFError, OSError):
        os._exit(0)


if __name__ == "__main__":
    main()
