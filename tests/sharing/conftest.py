"""`tiny:net` and commands with their answers, as the tests of the verbs have them."""

from cli.conftest import _tiny_source, say

__all__ = ["_tiny_source", "say"]
