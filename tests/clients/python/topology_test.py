"""Queues and exchanges: declaring, refusing, counting, and what deletes them."""

import pika
import pytest

from conftest import Inbox, channel_refused, fill, get, ready, until


def test_declare_answers_name_and_counts(channel, names):
    name = names.queue()
    fresh = channel.queue_declare(name, durable=True).method
    assert (fresh.queue, fresh.message_count, fresh.consumer_count) == (name, 0, 0)
    fill(channel, name, b"1", b"2")
    channel.basic_qos(prefetch_count=1)
    Inbox(channel, name).wait(1)
    again = channel.queue_declare(name, durable=True).method
    assert (again.message_count, again.consumer_count) == (1, 1)


def test_missing_queue_is_404(channel):
    with channel_refused(404, "NOT_FOUND - no queue 'nowhere-at-all' in vhost '/'"):
        channel.queue_declare("nowhere-at-all", passive=True)


def test_missing_exchange_is_404(channel):
    with channel_refused(404, "NOT_FOUND - no exchange 'nowhere-at-all' in vhost '/'"):
        channel.exchange_declare("nowhere-at-all", passive=True)


@pytest.mark.parametrize("action", ["consume", "get", "purge", "bind"])
def test_every_use_of_a_missing_queue_is_404(channel, action):
    name = "nowhere-at-all"
    with channel_refused(404, "NOT_FOUND - no queue 'nowhere-at-all' in vhost '/'"):
        match action:
            case "consume":
                channel.basic_consume(name, print)
            case "get":
                channel.basic_get(name)
            case "purge":
                channel.queue_purge(name)
            case "bind":
                channel.queue_bind(name, "amq.direct", "k")


def test_bind_to_a_missing_exchange_is_404(channel, queue):
    with channel_refused(404, "NOT_FOUND - no exchange 'nowhere-at-all' in vhost '/'"):
        channel.queue_bind(queue, "nowhere-at-all", "k")


def test_inequivalent_queue_is_406(channel, queue):
    text = (
        "PRECONDITION_FAILED - inequivalent arg 'durable' for queue "
        f"'{queue}' in vhost '/': received 'false' but current is 'true'"
    )
    with channel_refused(406, text):
        channel.queue_declare(queue, durable=False)


def test_inequivalent_queue_argument_is_406(channel, names):
    name = names.queue()
    channel.queue_declare(name, arguments={"x-message-ttl": 60000})
    with channel_refused(406, f"PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue '{name}'"):
        channel.queue_declare(name, arguments={"x-message-ttl": 61000})


def test_equal_redeclare_is_allowed(channel, names):
    queue, exchange = names.queue(), names.exchange()
    for _ in range(2):
        channel.queue_declare(queue, arguments={"x-message-ttl": 60000})
        channel.exchange_declare(exchange, "topic", durable=True)


def test_inequivalent_exchange_is_406(channel, names):
    name = names.exchange()
    channel.exchange_declare(name, "direct")
    text = (
        "PRECONDITION_FAILED - inequivalent arg 'type' for exchange "
        f"'{name}' in vhost '/': received 'fanout' but current is 'direct'"
    )
    with channel_refused(406, text):
        channel.exchange_declare(name, "fanout")


def test_invalid_argument_is_406(channel, names):
    name = names.queue()
    with channel_refused(406, f"PRECONDITION_FAILED - invalid arg 'x-message-ttl' for queue '{name}'"):
        channel.queue_declare(name, arguments={"x-message-ttl": -5})


def test_reserved_names_are_403(connection):
    with channel_refused(403, "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'"):
        connection.channel().queue_declare("amq.mine")
    with channel_refused(403, "ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'"):
        connection.channel().exchange_declare("amq.mine", "direct")


def test_the_default_exchange_cannot_be_touched(connection, queue):
    text = "ACCESS_REFUSED - operation not permitted on the default exchange"
    with channel_refused(403, text):
        connection.channel().queue_bind(queue, "", "k")
    with channel_refused(403, text):
        connection.channel().exchange_delete("")


def test_predeclared_exchanges_exist(channel):
    for name, kind in (
        ("amq.direct", "direct"),
        ("amq.fanout", "fanout"),
        ("amq.topic", "topic"),
        ("amq.headers", "headers"),
        ("amq.match", "headers"),
    ):
        channel.exchange_declare(name, kind, durable=True)


def test_server_named_queues(channel):
    first = channel.queue_declare("", exclusive=True).method.queue
    second = channel.queue_declare("", exclusive=True).method.queue
    assert first != second
    assert first.startswith("amq.gen-") and len(first) == len("amq.gen-") + 22
    # An empty name means the queue declared last on this channel.
    channel.queue_bind("", "amq.direct", first)
    channel.basic_publish("amq.direct", first, b"to the second")
    assert get(channel, second)[2] == b"to the second"


def test_exclusive_queue_is_locked_and_goes_with_its_connection(connect, names):
    owner, other = connect(), connect()
    name = names.queue()
    owner.channel().queue_declare(name, exclusive=True)
    with channel_refused(405, f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost '/'"):
        other.channel().queue_declare(name, exclusive=True)
    with channel_refused(405, f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}'"):
        other.channel().basic_consume(name, print)
    owner.close()
    with channel_refused(404, f"NOT_FOUND - no queue '{name}'"):
        other.channel().queue_declare(name, passive=True)


def test_auto_delete_queue_goes_with_its_last_consumer(connection, channel, names):
    name = names.queue()
    channel.queue_declare(name, auto_delete=True)
    first = channel.basic_consume(name, print)
    second = channel.basic_consume(name, print)
    channel.basic_cancel(first)
    assert channel.queue_declare(name, passive=True).method.consumer_count == 1
    channel.basic_cancel(second)
    with channel_refused(404, f"NOT_FOUND - no queue '{name}'"):
        connection.channel().queue_declare(name, passive=True)


def test_auto_delete_exchange_goes_with_its_last_binding(connection, channel, names, queue):
    name = names.exchange()
    channel.exchange_declare(name, "direct", auto_delete=True)
    channel.queue_bind(queue, name, "a")
    channel.queue_bind(queue, name, "b")
    channel.queue_unbind(queue, name, "a")
    channel.exchange_declare(name, passive=True)
    channel.queue_unbind(queue, name, "b")
    with channel_refused(404, f"NOT_FOUND - no exchange '{name}'"):
        connection.channel().exchange_declare(name, passive=True)


def test_purge_counts_ready_only(channel, queue):
    fill(channel, queue, *(b"m" for _ in range(5)))
    held = channel.basic_get(queue)[0]
    assert channel.queue_purge(queue).method.message_count == 4
    channel.basic_nack(held.delivery_tag, requeue=True)
    assert get(channel, queue)[0].redelivered


def test_delete_counts_and_may_be_repeated(channel, queue):
    fill(channel, queue, b"1", b"2", b"3")
    assert channel.queue_delete(queue).method.message_count == 3
    assert channel.queue_delete(queue).method.message_count == 0


def test_conditional_delete(connection, channel, names):
    name = names.queue()
    channel.queue_declare(name)
    fill(channel, name, b"m")
    with channel_refused(406, f"PRECONDITION_FAILED - queue '{name}' in vhost '/' not empty"):
        connection.channel().queue_delete(name, if_empty=True)
    channel.basic_consume(name, print)
    with channel_refused(406, f"PRECONDITION_FAILED - queue '{name}' in vhost '/' in use"):
        connection.channel().queue_delete(name, if_unused=True)


def test_conditional_exchange_delete(connection, channel, names, queue):
    name = names.exchange()
    channel.exchange_declare(name, "direct")
    channel.queue_bind(queue, name, "k")
    with channel_refused(406, f"PRECONDITION_FAILED - exchange '{name}' in vhost '/' in use"):
        connection.channel().exchange_delete(name, if_unused=True)
    channel.queue_unbind(queue, name, "k")
    channel.exchange_delete(name, if_unused=True)


def test_a_deleted_queue_loses_its_bindings(channel, names):
    name, exchange = names.queue(), names.exchange()
    channel.exchange_declare(exchange, "fanout")
    channel.queue_declare(name)
    channel.queue_bind(name, exchange)
    channel.queue_delete(name)
    channel.queue_declare(name)
    channel.confirm_delivery()
    channel.basic_publish(exchange, "", b"nobody")
    assert ready(channel, name) == 0


def test_queue_delete_cancels_its_consumers(connection, channel, queue):
    told = []
    channel.add_on_cancel_callback(told.append)
    tag = channel.basic_consume(queue, print)
    connection.channel().queue_delete(queue)
    until(connection, lambda: told)
    assert isinstance(told[0].method, pika.spec.Basic.Cancel)
    assert told[0].method.consumer_tag == tag
    # The channel lives on.
    channel.queue_declare(queue, durable=True)
