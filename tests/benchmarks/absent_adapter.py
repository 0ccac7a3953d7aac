"""A tool for tests that is not installed."""

from __future__ import annotations

from protocol import Made, Setting, Subject, Task, Tool, main


def make(subject: Subject, task: Task) -> Made:
    import a_tool_that_nobody_has  # noqa: F401

    raise AssertionError


TOOL = Tool(name="Absent", package="", settings=(Setting(name="default", says=""),), make=make, note="It is a fiction.")

if __name__ == "__main__":
    main(TOOL)
