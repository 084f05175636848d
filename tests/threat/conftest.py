"""Candidates of membership attacks, shared with the tests of that question."""

from tests.questions.membership.conftest import cases

__all__ = ["cases"]
