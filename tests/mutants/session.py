"""A pytest session that collects once, then runs its tests for each change in a fork of itself.

A change inside functions replaces their code objects, so that whoever imported them runs the
changed code; what a test module computed while it was imported stays. Tests that execute the
changed function come first, the quickest of them first.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from types import FunctionType

import pytest

from tests.mutants.changes import ROOT, Mutant
from tests.mutants.functions import Functions, Key, executed, functions_of, key_of
from tests.mutants.processes import in_fork
from tests.mutants.transplant import transplant

ALL: Key = ("", 0)


class MutantSession:
    """Plugin of pytest.

    Args:
        file: of `gdpo_sr/`, that all changes are of.
        mutants: changes.
        results: gets (index of the change, whether it is seen).
    """

    def __init__(self, file: str, mutants: list[Mutant], results: Connection) -> None:
        self.path = str(ROOT / "gdpo_sr" / file)
        self.mutants, self.results = mutants, results

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Instead of running the tests once."""
        times = in_fork(lambda: self._times(session))
        if times is None:
            raise pytest.UsageError("a test fails without any change; mend it first")
        order: dict[Key, list[int]] = {}
        for _, number, keys in sorted(times, key=lambda row: row[:2]):
            for key in {*keys, ALL}:
                order.setdefault(key, []).append(number)
        original = functions_of(self.path)
        present = self._present()
        gc.freeze()
        for index, mutant in enumerate(self.mutants):
            changed = functions_of(self.path, mutant.source)
            new = {key: code for key, code in changed.items() if original.get(key) != code}
            assert new.keys() <= present.keys(), mutant
            lives = in_fork(lambda: self._lives(session, order, mutant, new, present))  # noqa: B023
            self.results.send((index, not lives))
        return True

    def _times(self, session: pytest.Session) -> list[tuple[float, int, set[Key]]] | None:
        """Seconds, number and executed functions of every test; None: one fails."""
        found = []
        numbers = list(range(len(session.items)))
        start = time.perf_counter()
        with executed(self.path) as keys:
            for number, passed in results_of(session, numbers):
                if not passed:
                    return None
                found.append((time.perf_counter() - start, number, set(keys)))
                keys.clear()
                start = time.perf_counter()
        return found

    def _present(self) -> dict[Key, list[FunctionType]]:
        found: dict[Key, list[FunctionType]] = {}
        for thing in gc.get_objects():
            if type(thing) is FunctionType and thing.__code__.co_filename == self.path:
                found.setdefault(key_of(thing.__code__), []).append(thing)
        return found

    def _lives(
        self,
        session: pytest.Session,
        order: dict[Key, list[int]],
        mutant: Mutant,
        new: Functions,
        present: dict[Key, list[FunctionType]],
    ) -> bool:
        for key, code in new.items():
            for function in present[key]:
                function.__code__ = code
        if not new and not transplant(mutant):
            return True  # it could not be made, or is none
        first = [number for key in new for number in order.get(key, [])]
        numbers = list(dict.fromkeys(first + order[ALL]))
        return all(passed for _, passed in results_of(session, numbers))


def results_of(session: pytest.Session, numbers: list[int]) -> Iterator[tuple[int, bool]]:
    """Run tests in this order: the number of each, and whether it passes."""
    items = [session.items[number] for number in numbers]
    for number, item, following in zip(numbers, items, [*items[1:], None], strict=True):
        failed = session.testsfailed
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        yield number, session.testsfailed == failed
