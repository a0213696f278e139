"""Guesses of the next tokens, to be checked in one pass, and whether guessing pays.

Prompt lookup (Saxena 2023; Yang et al. 2023, LLMA): where the last tokens have stood before in the
prompt or the answer, what followed them then is the guess. It costs no model, and is right where text repeats: quotes,
edits, code, retrieval. Left out on purpose: a draft model, which on two cores takes the time that it saves.
"""

from collections.abc import Sequence

GRAMS = (4, 3, 2)  # last tokens that are looked up, longest first
LATEST = 0.2  # weight of the newest measurement in a mean
RETRY = 32  # passes between two attempts where guessing does not pay


class Lookup:
    """Where each run of tokens was last continued, in one request's text."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._follows: dict[tuple[int, ...], int] = {}  # a run of tokens -> the place after it
        self.extend(tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        for token in tokens:  # a run is entered once something follows it
            end = len(self._tokens)
            for gram in GRAMS:
                if gram <= end:
                    self._follows[tuple(self._tokens[end - gram :])] = end
            self._tokens.append(token)

    def guess(self, most: int) -> list[int]:
        """Up to `most` tokens that may come next; none where the last ones are new."""
        if most < 1:
            return []
        for gram in GRAMS:
            place = self._follows.get(tuple(self._tokens[-gram:]))
            if place is not None:
                period = len(self._tokens) - place  # past the end, the text is taken to go on repeating itself
                return [self._tokens[place + index % period] for index in range(most)]
        return []


class Payoff:
    """Compares tokens a second of passes with guesses and without, for each number of rows."""

    def __init__(self) -> None:
        self._speed: dict[tuple[int, bool], float] = {}  # rows, guessed? -> tokens a second
        self._refused: dict[int, int] = {}  # rows -> passes since an attempt

    def pays(self, rows: int) -> bool:
        """Whether to guess in this pass. Both ways are tried before they are compared."""
        plain, guessed = self._speed.get((rows, False)), self._speed.get((rows, True))
        if plain is None:
            return False
        if guessed is None or guessed > plain:
            return True
        self._refused[rows] = (self._refused.get(rows, 0) + 1) % RETRY
        return self._refused[rows] == 0

    def measured(self, rows: int, guessed: bool, tokens: int, seconds: float) -> None:
        speed = tokens / seconds
        before = self._speed.get((rows, guessed), speed)
        self._speed[rows, guessed] = before + LATEST * (speed - before)
