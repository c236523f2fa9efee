"""A network at work while its next slices are prepared: in order, one at a time, two in memory."""

import threading
import time

import pytest

from covct.networks.meanwhile import meanwhile


def test_what_is_made_comes_in_order_with_its_key():
    assert list(meanwhile(lambda n: n * n, [("a", 1), ("b", 2), ("c", 3)])) == [("a", 1), ("b", 4), ("c", 9)]
    assert list(meanwhile(abs, [("a", -1)])) == [("a", 1)]
    assert list(meanwhile(abs, [])) == []


def test_the_next_is_prepared_while_one_is_made_and_no_further_one():
    at_work, prepared, go_on = threading.Event(), [], threading.Event()

    def items():
        for number in range(4):
            if number:
                assert at_work.wait(5), "the network works on what came before"
                go_on.set()
            prepared.append(number)
            yield number, number

    def make(number):
        at_work.set()
        assert number or go_on.wait(5), "waits for the next to be prepared"
        return number

    made = meanwhile(make, items())
    assert next(made) == (0, 0)
    assert prepared == [0, 1], "bounded: one in use, one ahead"
    assert list(made) == [(1, 1), (2, 2), (3, 3)]


def test_never_two_at_once_even_if_the_caller_dawdles():
    running = []

    def make(number):
        running.append(number)
        time.sleep(0.002)
        assert running == [number]
        running.clear()

    for _ in meanwhile(make, [(n, n) for n in range(8)]):
        time.sleep(0.003)


def test_an_error_reaches_the_caller_and_ends_the_work():
    made = []

    def make(number):
        made.append(number)
        if number == 1:
            raise MemoryError
        return number

    with pytest.raises(MemoryError):
        list(meanwhile(make, [(n, n) for n in range(9)]))
    assert max(made) <= 2, "what was taken before it was known, at most"
    assert not [one for one in threading.enumerate() if one.name.startswith("covct-network")]


def test_an_error_of_preparing_reaches_the_caller_too():
    def items():
        yield 0, 0
        raise ValueError("unreadable")

    with pytest.raises(ValueError, match="unreadable"):
        list(meanwhile(abs, items()))


def test_a_caller_that_leaves_leaves_no_thread():
    for _ in meanwhile(abs, [(n, n) for n in range(9)]):
        break
    assert not [one for one in threading.enumerate() if one.name.startswith("covct-network")]
