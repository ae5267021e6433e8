"""Whose turn it is among the members of a cluster."""

from servicebus.policy.members import MemberRotation


def test_after_every_loss_the_next_one_is_tried_round_and_round() -> None:
    turn = MemberRotation(3)
    seen = []
    for _ in range(5):
        seen.append(turn.number)
        turn.lost()
    assert seen == [0, 1, 2, 0, 1]


def test_who_answered_stays_until_it_is_lost() -> None:
    turn = MemberRotation(3)
    turn.lost()
    turn.opened()
    assert turn.number == 1


def test_the_wait_limit_doubles_with_every_round_in_which_none_answered() -> None:
    turn = MemberRotation(2)
    given = []
    for _ in range(10):
        given.append(turn.limit_s(5.0))
        turn.lost()
    assert given == [0.5, 0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 5.0, 5.0]
    turn.opened()
    assert turn.limit_s(5.0) == 0.5


def test_a_single_broker_is_given_the_longest_wait_limit() -> None:
    turn = MemberRotation(0)
    turn.lost()
    assert (turn.number, turn.limit_s(5.0)) == (0, 5.0)
