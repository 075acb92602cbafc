"""Consuming: settling, redelivery and its place, prefetch, cancel, get, recover."""

import socket

import pika
import pytest

from conftest import Inbox, channel_refused, fill, get, parameters, ready, until, until_ready


def test_acked_each_is_gone(connection, channel, queue):
    fill(channel, queue, b"1", b"2", b"3")
    inbox = Inbox(channel, queue)
    inbox.wait(3)
    assert not any(method.redelivered for method, _, _ in inbox.got)
    for tag in inbox.tags:
        channel.basic_ack(tag)
    channel.close()
    assert ready(connection.channel(), queue) == 0


def test_ack_multiple_settles_all_up_to_the_tag(connection, channel, queue):
    fill(channel, queue, *(b"%d" % n for n in range(10)))
    inbox = Inbox(channel, queue)
    inbox.wait(10)
    channel.basic_ack(inbox.tags[6], multiple=True)
    channel.close()
    other = connection.channel()
    until_ready(other, queue, 3)
    assert [get(other, queue)[2] for _ in range(3)] == [b"7", b"8", b"9"]


def test_ack_multiple_of_zero_settles_everything(connection, channel, queue):
    fill(channel, queue, b"1", b"2", b"3")
    Inbox(channel, queue).wait(3)
    channel.basic_ack(0, multiple=True)
    channel.close()
    assert ready(connection.channel(), queue) == 0


@pytest.mark.parametrize("verb", ["nack", "reject"])
def test_requeue_returns_to_the_original_place(channel, queue, verb):
    fill(channel, queue, *(b"%d" % n for n in range(5)))
    held = [channel.basic_get(queue)[0] for _ in range(3)]
    settle = channel.basic_nack if verb == "nack" else channel.basic_reject
    settle(held[1].delivery_tag, requeue=True)
    until_ready(channel, queue, 3)
    settle(held[0].delivery_tag, requeue=True)
    until_ready(channel, queue, 4)
    got = [get(channel, queue) for _ in range(4)]
    assert [body for _, _, body in got] == [b"0", b"1", b"3", b"4"]
    assert [method.redelivered for method, _, _ in got] == [True, True, False, False]


@pytest.mark.parametrize("verb", ["nack", "reject"])
def test_without_requeue_it_is_dropped(connection, channel, queue, verb):
    fill(channel, queue, b"1", b"2")
    settle = channel.basic_nack if verb == "nack" else channel.basic_reject
    settle(channel.basic_get(queue)[0].delivery_tag, requeue=False)
    channel.close()
    other = connection.channel()
    assert ready(other, queue) == 1
    assert get(other, queue)[2] == b"2"


def test_nack_multiple(connection, channel, queue):
    fill(channel, queue, *(b"%d" % n for n in range(6)))
    inbox = Inbox(channel, queue)
    inbox.wait(6)
    channel.basic_nack(inbox.tags[2], multiple=True, requeue=False)
    channel.basic_cancel(inbox.tag)
    channel.basic_nack(inbox.tags[5], multiple=True, requeue=True)
    until_ready(channel, queue, 3)
    got = [get(channel, queue) for _ in range(3)]
    assert [(m.redelivered, body) for m, _, body in got] == [(True, b"3"), (True, b"4"), (True, b"5")]


def test_closing_the_channel_returns_unacked_in_order(connection, channel, queue):
    fill(channel, queue, *(b"%d" % n for n in range(20)))
    sick = connection.channel()
    sick.basic_qos(prefetch_count=10)
    Inbox(sick, queue).wait(10)
    sick.close()
    until_ready(channel, queue, 20)
    got = [get(channel, queue) for _ in range(20)]
    assert [body for _, _, body in got] == [b"%d" % n for n in range(20)]
    assert [m.redelivered for m, _, _ in got] == [True] * 10 + [False] * 10


def test_a_lost_connection_returns_unacked(channel, queue):
    fill(channel, queue, b"1", b"2")
    lost = pika.BlockingConnection(parameters())
    Inbox(lost.channel(), queue).wait(2)
    assert ready(channel, queue) == 0
    # No close, no goodbye: the socket ends under the connection.
    lost._impl._transport._sock.shutdown(socket.SHUT_RDWR)
    until_ready(channel, queue, 2)
    assert get(channel, queue)[0].redelivered


def test_prefetch_bounds_the_unacked(channel, queue):
    fill(channel, queue, *(b"%d" % n for n in range(10)))
    channel.basic_qos(prefetch_count=3)
    inbox = Inbox(channel, queue)
    inbox.wait(3)
    assert ready(channel, queue) == 7 and len(inbox.got) == 3
    channel.basic_ack(inbox.tags[0])
    inbox.wait(4)
    assert ready(channel, queue) == 6
    channel.basic_ack(inbox.tags[3], multiple=True)
    inbox.wait(7)
    assert ready(channel, queue) == 3
    assert inbox.bodies == [b"%d" % n for n in range(7)]


def test_prefetch_is_per_consumer(channel, queue):
    fill(channel, queue, *(b"%d" % n for n in range(10)))
    channel.basic_qos(prefetch_count=2)
    one, two = Inbox(channel, queue), Inbox(channel, queue)
    one.wait(2), two.wait(2)
    assert ready(channel, queue) == 6


def test_global_prefetch_is_shared(channel, queue):
    fill(channel, queue, *(b"%d" % n for n in range(10)))
    channel.basic_qos(prefetch_count=3, global_qos=True)
    one, two = Inbox(channel, queue), Inbox(channel, queue)
    until(channel.connection, lambda: len(one.got) + len(two.got) == 3)
    assert ready(channel, queue) == 7


def test_auto_ack_ignores_prefetch(connection, channel, queue):
    fill(channel, queue, *(b"%d" % n for n in range(50)))
    channel.basic_qos(prefetch_count=1)
    Inbox(channel, queue, auto_ack=True).wait(50)
    channel.close()
    assert ready(connection.channel(), queue) == 0


def test_get_counts_what_remains(channel, queue):
    assert channel.basic_get(queue) == (None, None, None)
    fill(channel, queue, b"1", b"2", b"3")
    method, _, body = channel.basic_get(queue)
    assert (method.message_count, method.redelivered, method.exchange, method.routing_key) == (2, False, "", queue)
    assert body == b"1"
    channel.basic_ack(method.delivery_tag)
    assert channel.basic_get(queue, auto_ack=True)[2] == b"2"
    assert channel.basic_get(queue, auto_ack=True)[0].message_count == 0


def test_the_client_may_name_its_consumer(channel, queue):
    assert channel.basic_consume(queue, print, consumer_tag="mine") == "mine"


def test_a_cancelled_consumer_gets_nothing_more(channel, queue):
    inbox = Inbox(channel, queue, auto_ack=True)
    for n in range(3):
        channel.basic_publish("", queue, b"%d" % n)
    inbox.wait(3)
    channel.basic_cancel(inbox.tag)
    fill(channel, queue, b"late")
    assert len(inbox.got) == 3 and ready(channel, queue) == 1
    # The tag is free again.
    again = Inbox(channel, queue, auto_ack=True, consumer_tag=inbox.tag)
    assert again.wait(1)[0][2] == b"late"


def test_consumers_take_turns(channel, queue):
    inboxes = [Inbox(channel, queue, auto_ack=True) for _ in range(3)]
    for n in range(30):
        channel.basic_publish("", queue, b"%d" % n)
    until(channel.connection, lambda: sum(len(inbox.got) for inbox in inboxes) == 30)
    assert [len(inbox.got) for inbox in inboxes] == [10, 10, 10]


def test_a_message_goes_to_one_consumer_only(connect, channel, queue):
    inboxes = [Inbox(connect().channel(), queue, auto_ack=True) for _ in range(3)]
    fill_bodies = [b"%d" % n for n in range(90)]
    for body in fill_bodies:
        channel.basic_publish("", queue, body)

    def served():
        for inbox in inboxes:
            inbox.channel.connection.process_data_events(time_limit=0.01)
        return sum(len(inbox.got) for inbox in inboxes) == 90

    until(channel.connection, served)
    bodies = [body for inbox in inboxes for body in inbox.bodies]
    assert sorted(bodies) == sorted(fill_bodies)


def test_an_exclusive_consumer_keeps_others_out(connection, channel, queue):
    channel.basic_consume(queue, print, exclusive=True)
    with channel_refused(403, f"ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"):
        connection.channel().basic_consume(queue, print)


@pytest.mark.parametrize("verb", ["ack", "nack", "reject"])
def test_an_unknown_tag_is_406(channel, queue, verb):
    with channel_refused(406, "PRECONDITION_FAILED - unknown delivery tag 42"):
        getattr(channel, f"basic_{verb}")(42)
        ready(channel, queue)


def test_a_tag_settles_once(channel, queue):
    fill(channel, queue, b"m")
    tag = channel.basic_get(queue)[0].delivery_tag
    channel.basic_ack(tag)
    with channel_refused(406, f"PRECONDITION_FAILED - unknown delivery tag {tag}"):
        channel.basic_ack(tag)
        ready(channel, queue)


def test_recover_redelivers_the_unacked(channel, queue):
    fill(channel, queue, b"1", b"2")
    inbox = Inbox(channel, queue)
    inbox.wait(2)
    channel.basic_recover(requeue=True)
    inbox.wait(4)
    assert [(m.redelivered, body) for m, _, body in inbox.got[2:]] == [(True, b"1"), (True, b"2")]


def test_delivery_names_exchange_and_key(channel, queue):
    channel.queue_bind(queue, "amq.topic", f"{queue}.#")
    inbox = Inbox(channel, queue, auto_ack=True)
    channel.basic_publish("amq.topic", f"{queue}.eu.de", b"m")
    method, _, _ = inbox.wait(1)[0]
    assert (method.exchange, method.routing_key) == ("amq.topic", f"{queue}.eu.de")
    assert method.consumer_tag == inbox.tag and method.delivery_tag == 1
