"""Acknowledger: does what was decided about deliveries: answers, has copies stored, and acknowledges."""

from __future__ import annotations

from servicebus.runtime.copy_store import CopyStore
from servicebus.runtime.job import Disposition, Job, PendingDelivery
from servicebus.runtime.publisher import Publisher
from servicebus.runtime.recent_ids import RecentIds
from servicebus.transport.failurelog import FailureLog


class Acknowledger:
    """Belongs to the I/O thread."""

    def __init__(self, copies: CopyStore, failures: FailureLog, refused_calls: RecentIds):
        self.epoch: int | None = None
        self.publisher: Publisher | None = None
        self._copies = copies
        self._failures = failures
        self._refused_calls = refused_calls

    def __repr__(self) -> str:
        return f"<Acknowledger epoch={self.epoch}>"

    def begin(self, epoch: int, publisher: Publisher) -> None:
        """A new pair of connections: deliveries of *epoch* are settled from here on, over *publisher*."""
        self.epoch, self.publisher = epoch, publisher
        self._copies.begin(epoch, publisher)

    def end(self) -> None:
        """The connections are gone: nothing can be settled until the next ones."""
        self.epoch = self.publisher = None
        self._copies.end()

    def settle(self, disposition: Disposition) -> bool:
        """Answer, store and ack, as far as the deliveries are of these connections; the others come again.

        False: something was raised. It may be called again, unless a copy is to be stored.
        """
        publisher, epoch, reply = self.publisher, self.epoch, disposition.reply
        if publisher is None:
            return True
        try:
            if disposition.copy is not None:
                self._copies.store(disposition)
                return True
            for pending in disposition.pending:
                if pending.epoch != epoch:
                    continue
                # Reply first: a crash between the two costs a repeat, not an answer.
                if reply is not None:
                    try:
                        publisher.reply(pending, reply, disposition.job)
                    except Exception:  # a service's, which came late: the second try reports what is ours
                        self._reply_again(publisher, pending, reply, disposition.job)
                    if disposition.job is None:  # it was not run: the journal does not know of this answer
                        self._refused_calls.add(pending.run_id)
                pending.delivery.channel.ack(pending.delivery.tag)
        except Exception as error:  # what is to be stored comes again
            self._failures.report("a disposition", error)
            return False
        return True

    def _reply_again(self, publisher: Publisher, pending: PendingDelivery, reply: bytes, job: Job | None) -> None:
        """A late exception, meant for a service, comes once."""
        try:
            publisher.reply(pending, reply, job)
        except Exception as error:  # it cannot be answered, and is done with all the same
            self._failures.report("a reply", error)
