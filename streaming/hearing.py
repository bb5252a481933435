"""Messages of actions into the requests that gather: at once where our own codec wrote them.

Knows the wire form; what becomes of actions that do more than add to hits is the join's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from schema.codec import USER_ACTIONS, envelope_body
from schema.records import Action, ActionBatch, Heartbeat
from streaming.gathering import Gathering, Heard, Odd

action_of: Final = msgspec.msgpack.Decoder(Action).decode
"""The action of an `Odd`."""

_pack: Final = msgspec.msgpack.Encoder().encode


def hear(gathering: Gathering, value: bytes | None, offset: int, limit: int) -> Heard:
    """A message of actions came; those of after `limit` are odd.

    Raises:
        InvalidMessage: as `ActionCodec.decode`; nothing is done then.
    """
    if not USER_ACTIONS.is_json(value):
        heard = gathering.hear(envelope_body(value), offset, limit)
        if heard is not None:
            return heard
    records = USER_ACTIONS.decode(value)
    return gathering.hear(_pack(records), offset, limit) or all_odd(records, limit)


def all_odd(records: Sequence[ActionBatch | Heartbeat], limit: int) -> Heard:
    """What `hear` says where no request gathers."""
    odd, newest, beats, word = [], -1, 0, -1
    for position, record in enumerate(records):
        if isinstance(record, Heartbeat):
            beats, word = beats + 1, max(word, record.event_time)
            continue
        for action in record.actions:
            odd.append(Odd(record.user_id, position, _pack(action)))
            if action.event_time <= limit:
                newest = max(newest, action.event_time)
    return Heard(len(odd), newest, 0, 0, odd, beats, word)
