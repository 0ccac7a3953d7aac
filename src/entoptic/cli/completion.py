"""`entoptic completion`: completion by the Tab key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from entoptic.cli.options import Debug
from entoptic.errors import UserError, nearest

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True, kw_only=True)
class Completion:
    """Print the script by which a shell completes verbs and options."""

    title: ClassVar[str] = "print the script by which a shell completes commands"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic completion bash > entoptic.bash   # then: source entoptic.bash",
        "entoptic completion zsh > _entoptic        # in a folder of $fpath",
        "entoptic completion fish > entoptic.fish   # in ~/.config/fish/completions",
    )

    shell: Positional[Annotated[str, arg(metavar="SHELL")]]
    """bash, zsh or fish"""
    debug: Debug = False


def run_completion(options: Completion) -> int:
    """Runs `entoptic completion`; returns the exit code."""
    from entoptic.cli.parse import completion_script

    if options.shell not in SHELLS:
        raise UserError(
            f'no completion for the shell "{options.shell}"; there are {", ".join(SHELLS)}{nearest(options.shell, SHELLS)}'
        )
    print(completion_script(options.shell))
    return 0
