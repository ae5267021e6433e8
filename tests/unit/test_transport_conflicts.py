"""What RabbitMQ says of queues that are not as they were declared, in its own words."""

from servicebus.transport.conflicts import Conflict, queue_conflict, stranded_queue


def test_a_queue_of_another_type_tells_both_types():
    text = (
        "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'N.messages' in vhost '/': "
        "received the value 'quorum' of type 'longstr' but current is none"
    )
    assert queue_conflict(text) == Conflict("N.messages", "quorum", "classic")


def test_a_queue_that_is_quorum_where_none_was_asked_for_tells_both_types():
    text = (
        "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'N.messages' in vhost 'a': "
        "received none but current is the value 'quorum' of type 'longstr'"
    )
    assert queue_conflict(text) == Conflict("N.messages", "classic", "quorum")


def test_another_argument_tells_the_queue():
    text = (
        "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'N.messages.delay.1' in vhost '/': "
        "received none but current is the value '1000' of type 'signedint'"
    )
    assert queue_conflict(text) == Conflict("N.messages.delay.1", "", "")


def test_other_refusals_are_no_conflict():
    assert queue_conflict("PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'e' in vhost '/': ...") is None
    assert queue_conflict("PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out.") is None


def test_a_queue_whose_member_is_away_is_named():
    text = "NOT_FOUND - home node 'rabbit@b' of durable queue 'N.rpc' in vhost '/' is down or inaccessible"
    assert stranded_queue(text) == "N.rpc"
    assert stranded_queue("NOT_FOUND - no queue 'N.rpc' in vhost '/'") is None
