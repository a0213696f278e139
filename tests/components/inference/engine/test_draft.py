"""Guesses by hand, and the choice whether to guess."""

from components.inference.engine.draft import RETRY, Lookup, Payoff


def test_what_followed_the_last_tokens_before_is_the_guess():
    lookup = Lookup([1, 2, 3, 4, 5, 6, 2, 3])
    assert lookup.guess(3) == [4, 5, 6]
    lookup.extend([9])
    assert lookup.guess(3) == []
    lookup.extend([2, 3])
    assert lookup.guess(2) == [9, 2]  # the latest place counts
    lookup.extend([4])
    assert lookup.guess(1) == [5]  # and a longer run before a shorter one
    assert lookup.guess(0) == []


def test_a_repetition_is_taken_to_go_on():
    assert Lookup([7, 8, 7, 8, 7]).guess(5) == [8, 7, 8, 7, 8]


def test_texts_shorter_than_a_run_have_no_guess():
    assert Lookup([]).guess(4) == []
    assert Lookup([1]).guess(4) == []


def test_guessing_goes_on_while_it_is_faster_and_is_tried_again_where_not():
    payoff = Payoff()
    assert not payoff.pays(1)  # plain first, to compare with
    payoff.measured(1, False, 1, 0.01)
    assert payoff.pays(1)
    payoff.measured(1, True, 3, 0.015)
    assert all(payoff.pays(1) for _ in range(100))
    for _ in range(50):
        payoff.measured(1, True, 1, 0.015)
    assert sum(payoff.pays(1) for _ in range(10 * RETRY)) == 10
    assert not payoff.pays(2)  # another number of rows is another matter
