"""What becomes of messages that expire or are rejected: TTL, dead-lettering, x-death."""

import datetime

import pytest
from pika.spec import BasicProperties

from conftest import Inbox, fill, get, ready, until, until_ready


@pytest.fixture
def grave(channel, names):
    """An exchange for the dead, and the queue behind it."""
    exchange, queue = names.exchange("dlx"), names.queue("grave")
    channel.exchange_declare(exchange, "topic")
    channel.queue_declare(queue)
    channel.queue_bind(queue, exchange, "#")
    return exchange, queue


def declare(channel, names, label="work", **arguments):
    name = names.queue(label)
    channel.queue_declare(name, arguments={f"x-{k.replace('_', '-')}": v for k, v in arguments.items()})
    return name


def test_message_ttl_drops_the_message(channel, queue):
    fill(channel, queue, b"stays")
    assert channel.basic_get(queue, auto_ack=True)[2] == b"stays"
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"goes", BasicProperties(expiration="50"))
    until_ready(channel, queue, 0)
    channel.basic_publish("", queue, b"long", BasicProperties(expiration="600000"))
    assert get(channel, queue)[2] == b"long"


def test_queue_ttl_drops_the_message(channel, names):
    queue = declare(channel, names, message_ttl=100)
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"goes")
    until_ready(channel, queue, 0)
    assert channel.basic_get(queue) == (None, None, None)


def test_the_smaller_ttl_counts(channel, names, grave):
    exchange, tomb = grave
    queue = declare(channel, names, message_ttl=600000, dead_letter_exchange=exchange)
    channel.basic_publish("", queue, b"m", BasicProperties(expiration="50"))
    assert get(channel, tomb)[2] == b"m"


def test_ttl_of_zero_delivers_to_a_waiting_consumer(channel, names):
    queue = declare(channel, names, message_ttl=0)
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"nobody waits")
    assert ready(channel, queue) == 0
    inbox = Inbox(channel, queue, auto_ack=True)
    channel.basic_publish("", queue, b"now")
    assert inbox.wait(1)[0][2] == b"now"


def test_expired_goes_to_the_dead_letter_exchange(channel, names, grave):
    exchange, tomb = grave
    queue = declare(channel, names, dead_letter_exchange=exchange)
    sent = BasicProperties(expiration="50", message_id="7", headers={"mine": "kept"}, delivery_mode=2)
    channel.basic_publish("", queue, b"old", sent)
    method, properties, body = get(channel, tomb)
    assert body == b"old" and (method.exchange, method.routing_key) == (exchange, queue)
    # The expiration would kill it again, so it is taken off.
    assert properties.expiration is None
    assert (properties.message_id, properties.delivery_mode) == ("7", 2)
    headers = properties.headers
    assert headers["mine"] == "kept"
    (death,) = headers["x-death"]
    assert isinstance(death.pop("time"), datetime.datetime)
    assert death == {
        "count": 1,
        "reason": "expired",
        "queue": queue,
        "exchange": "",
        "routing-keys": [queue],
        "original-expiration": "50",
    }
    assert headers["x-first-death-reason"] == "expired"
    assert headers["x-first-death-queue"] == queue
    assert headers["x-first-death-exchange"] == ""


@pytest.mark.parametrize("verb", ["nack", "reject"])
def test_rejected_goes_to_the_dead_letter_exchange(channel, names, grave, verb):
    exchange, tomb = grave
    queue = declare(channel, names, dead_letter_exchange=exchange, dead_letter_routing_key="died.here")
    channel.queue_bind(queue, "amq.topic", f"{queue}.#")
    channel.basic_publish("amq.topic", f"{queue}.a.b", b"bad")
    tag = get(channel, queue, auto_ack=False)[0].delivery_tag
    getattr(channel, f"basic_{verb}")(tag, requeue=False)
    method, properties, body = get(channel, tomb)
    assert body == b"bad" and (method.exchange, method.routing_key) == (exchange, "died.here")
    assert not method.redelivered
    (death,) = properties.headers["x-death"]
    death.pop("time")
    assert death == {
        "count": 1,
        "reason": "rejected",
        "queue": queue,
        "exchange": "amq.topic",
        "routing-keys": [f"{queue}.a.b"],
    }
    assert properties.headers["x-first-death-reason"] == "rejected"


def test_dead_letters_keep_their_order(channel, names, grave):
    exchange, tomb = grave
    queue = declare(channel, names, dead_letter_exchange=exchange)
    fill(channel, queue, *(b"%d" % n for n in range(20)))
    inbox = Inbox(channel, queue)
    inbox.wait(20)
    channel.basic_nack(inbox.tags[-1], multiple=True, requeue=False)
    until_ready(channel, tomb, 20)
    assert [get(channel, tomb)[2] for _ in range(20)] == [b"%d" % n for n in range(20)]


def test_requeue_true_is_no_death(channel, names, grave):
    exchange, tomb = grave
    queue = declare(channel, names, dead_letter_exchange=exchange)
    fill(channel, queue, b"m")
    channel.basic_nack(channel.basic_get(queue)[0].delivery_tag, requeue=True)
    _, properties, _ = get(channel, queue)
    assert not properties.headers or "x-death" not in properties.headers
    assert ready(channel, tomb) == 0


def test_a_missing_dead_letter_exchange_drops(connection, channel, names):
    queue = declare(channel, names, dead_letter_exchange="nowhere-at-all")
    fill(channel, queue, b"m")
    channel.basic_reject(channel.basic_get(queue)[0].delivery_tag, requeue=False)
    assert ready(channel, queue) == 0
    channel.close()
    assert ready(connection.channel(), queue) == 0


def test_the_classic_retry_ladder_counts_its_rounds(channel, names):
    """Work rejects into a waiting queue, whose TTL brings the message back."""
    work = declare(channel, names, "work", dead_letter_exchange="", dead_letter_routing_key=f"{names.prefix}-wait")
    wait = declare(channel, names, "wait", message_ttl=50, dead_letter_exchange="", dead_letter_routing_key=work)
    inbox = Inbox(channel, work)
    channel.basic_publish("", work, b"job", BasicProperties(headers={"mine": 1}))
    for round_number in range(1, 4):
        inbox.wait(round_number)
        channel.basic_reject(inbox.tags[-1], requeue=False)
    inbox.wait(4)
    assert [m.redelivered for m, _, _ in inbox.got] == [False] * 4
    headers = inbox.got[3][1].headers
    # The newest death stands first; one entry for each queue and reason.
    summary = [(d["queue"], d["reason"], d["count"]) for d in headers["x-death"]]
    assert summary == [(wait, "expired", 3), (work, "rejected", 3)]
    assert (headers["x-first-death-queue"], headers["x-first-death-reason"]) == (work, "rejected")
    assert headers["mine"] == 1
    channel.basic_ack(inbox.tags[-1])


def test_expired_behind_a_live_head_is_not_delivered(channel, names, grave):
    exchange, tomb = grave
    queue = declare(channel, names, dead_letter_exchange=exchange)
    channel.basic_publish("", queue, b"1", BasicProperties(expiration="50"))
    channel.basic_publish("", queue, b"2", BasicProperties(expiration="50"))
    channel.basic_publish("", queue, b"3")
    until(channel.connection, lambda: ready(channel, tomb) == 2)
    assert [get(channel, queue)[2], get(channel, tomb)[2], get(channel, tomb)[2]] == [b"3", b"1", b"2"]


def test_an_unacked_message_does_not_expire(channel, names, grave):
    exchange, tomb = grave
    queue = declare(channel, names, message_ttl=100, dead_letter_exchange=exchange)
    # The consumer stands ready, so that the first message is out of the queue at once.
    channel.basic_qos(prefetch_count=1)
    inbox = Inbox(channel, queue)
    channel.basic_publish("", queue, b"held")
    inbox.wait(1)
    channel.basic_publish("", queue, b"behind")
    assert get(channel, tomb)[2] == b"behind"
    assert ready(channel, tomb) == 0
    # Once back in the queue its time is up.
    channel.basic_cancel(inbox.tag)
    channel.basic_nack(inbox.tags[0], requeue=True)
    assert get(channel, tomb)[2] == b"held"
