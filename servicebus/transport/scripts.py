"""ScriptRunner: runs a channel's scripts, and notes which question to the broker is unanswered."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from servicebus.transport.interface import Asked, Script

__all__ = ["ScriptRunner"]


class ScriptRunner:
    """The base of every transport's channel. Belongs to the loop's thread."""

    def __init__(self) -> None:
        self.is_open = False
        """Also kept by the connection, when that ends: it is read for each call."""
        self.asked: Asked | None = None
        self.has_unanswered = False
        """Something was asked without an answer: a refusal may be about that."""
        self._script: Script | None = None

    def run(self, script: Script, on_done: Callable[[], None] | None = None) -> None:
        self._script = script
        self._advance(on_done, None)

    def _advance(self, on_done: Callable[[], None] | None, answer: Any) -> None:
        script = self._script
        if script is None or not self.is_open:
            return
        try:
            step = script.send(answer)
        except StopIteration:
            if self._script is script:  # the script's own end may have started the next one
                self._script = None
            if on_done is not None:
                on_done()
            return
        step(self, functools.partial(self._advance, on_done))  # type: ignore[arg-type]

    def _end_script(self) -> None:
        """The channel has closed."""
        if self._script is not None:
            self._script.close()
            self._script = None

    def _asking(
        self, queue: str, on_answer: Callable[[Any], None], *, is_declaration: bool = False
    ) -> Callable[[Any], None]:
        """*on_answer*, and note until then what the broker was asked about."""
        self.asked = Asked(queue, is_declaration)

        def answered(answer: Any) -> None:
            self.asked = None
            self.has_unanswered = False
            on_answer(answer)

        return answered

    def _refused_question(self) -> Asked | None:
        """The question that a refusal is about, if that is known."""
        return None if self.has_unanswered else self.asked
