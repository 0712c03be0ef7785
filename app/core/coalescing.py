"""Grouping messages: one stands for all changes of a gallery within GROUPING_DELAY_S, and each change has one.

A gallery owes a message from a change on until a message that covers the change is known to be sent. Both are noted in
the gallery's document: "owed" together with the change, "sent" after the message was sent. Whoever finds a message owed
claims the sending for CLAIM_S; if it dies, or its sending fails, the next one sends.
"""

import logging
from contextlib import suppress

from app.core.errors import RetryLater, WorkerError
from app.core.messages import GroupGallery, Mode
from app.core.ports import GalleryChanges, MessageClaim, MessageQueue

log = logging.getLogger(__name__)

LOOK_EVERY_S = 10.0
"""How often each worker looks for messages that are owed and that nobody sends."""


def send_claimed(
    claim: MessageClaim,
    galleries: GalleryChanges,
    queue: MessageQueue,
    delay_s: int,
    traceparent: str | None = None,
    mode: Mode = "auto",
) -> None:
    """Send the message that the caller has claimed, and note that it was sent.

    Whatever sending raises is raised again, and the next one may send at once. If noting fails, a second message is
    sent later, which finds nothing to do.
    """
    message = GroupGallery(gallery_id=claim.gallery_id, mode=mode)
    try:
        queue.send(message.model_dump_json(), delay_s, traceparent)
    except BaseException:
        # Without it, the claim ends by itself after CLAIM_S.
        with suppress(RetryLater):
            galleries.give_claim_back(claim)
        raise
    galleries.note_sent(claim, delay_s)


def send_overdue(galleries: GalleryChanges, queue: MessageQueue, delay_s: int) -> None:
    """Send the messages that are owed and that nobody sends, each by one of all workers that look at the same time."""
    try:
        while claim := galleries.claim_overdue():
            log.info("an owed grouping message is sent", extra={"gallery": claim.gallery_id})
            send_claimed(claim, galleries, queue, delay_s)
    except WorkerError as error:
        log.warning("owed grouping messages are looked for again in %.0f s: %s", LOOK_EVERY_S, error)
