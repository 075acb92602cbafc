"""Opening and closing: who may in, what is negotiated, what an error takes down."""

import pika
import pytest

from conftest import channel_refused, fill, parameters, ready


def test_server_properties_name_what_clients_look_for(connection):
    properties = connection._impl.server_properties
    assert properties["product"] == "RabbitMQ"
    assert [int(part) for part in properties["version"].split(".")[:2]] >= [3, 3]
    assert properties["platform"]
    for capability in (
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ):
        assert properties["capabilities"][capability] is True


def test_close_is_clean(connect):
    connection = connect()
    channel = connection.channel()
    connection.close()
    assert connection.is_closed and channel.is_closed


def test_wrong_password_is_refused():
    wrong = parameters(credentials=pika.PlainCredentials("guest", "not the password"))
    with pytest.raises(pika.exceptions.ProbableAuthenticationError) as caught:
        pika.BlockingConnection(wrong)
    assert "403" in str(caught.value) and "ACCESS_REFUSED - Login was refused" in str(caught.value)


def test_unknown_user_is_refused_like_a_wrong_password():
    wrong = parameters(credentials=pika.PlainCredentials("nobody", "guest"))
    with pytest.raises(pika.exceptions.ProbableAuthenticationError) as caught:
        pika.BlockingConnection(wrong)
    assert "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN" in str(caught.value)


def test_unknown_vhost_is_refused():
    with pytest.raises(pika.exceptions.ProbableAccessDeniedError) as caught:
        pika.BlockingConnection(parameters(virtual_host="no-such-vhost"))
    assert "(530) 'NOT_ALLOWED - vhost no-such-vhost not found'" in str(caught.value)


@pytest.mark.parametrize("wish,agreed", [(5, 5), (0, 0), (None, 60)])
def test_heartbeat_is_negotiated(connect, wish, agreed):
    connection = connect(heartbeat=wish)
    assert connection._impl.params.heartbeat == agreed


def test_an_idle_connection_lives_on_heartbeats(connect, names):
    connection = connect(heartbeat=1)
    channel = connection.channel()
    name = names.queue()
    channel.queue_declare(name)
    connection.process_data_events(time_limit=3.5)
    assert ready(channel, name) == 0


def test_a_small_frame_size_splits_bodies(connect, names):
    connection = connect(frame_max=4096)
    channel = connection.channel()
    name = names.queue()
    channel.queue_declare(name)
    body = bytes(range(256)) * 64
    fill(channel, name, body)
    assert channel.basic_get(name, auto_ack=True)[2] == body


def test_many_channels_work_side_by_side(connection, names):
    name = names.queue()
    channels = [connection.channel() for _ in range(100)]
    channels[0].queue_declare(name)
    for channel in channels:
        channel.confirm_delivery()
        channel.basic_publish("", name, str(channel.channel_number))
    bodies = {channel.basic_get(name, auto_ack=True)[2] for channel in channels}
    assert bodies == {str(channel.channel_number).encode() for channel in channels}


def test_a_closed_channel_number_can_be_opened_again(connection, names):
    name = names.queue()
    for _ in range(3):
        channel = connection.channel(7)
        channel.queue_declare(name)
        channel.close()


def test_a_channel_error_leaves_the_others_alive(connection, queue):
    healthy, sick = connection.channel(), connection.channel()
    with channel_refused(404, "NOT_FOUND - no queue 'nowhere-at-all' in vhost '/'"):
        sick.queue_declare("nowhere-at-all", passive=True)
    assert sick.is_closed and connection.is_open
    fill(healthy, queue, b"still here")
    assert healthy.basic_get(queue, auto_ack=True)[2] == b"still here"


def test_a_connection_error_ends_the_connection_only(connect, queue):
    first, second = connect(), connect()
    channel = first.channel()
    channel.basic_consume(queue, print, consumer_tag="twice")
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as caught:
        # pika itself refuses a doubled tag, so the method goes out by hand.
        channel._impl._send_method(pika.spec.Basic.Consume(queue=queue, consumer_tag="twice"))
        first.process_data_events(time_limit=10)
    assert caught.value.reply_code == 530
    assert "attempt to reuse consumer tag 'twice'" in caught.value.reply_text
    assert ready(second.channel(), queue) == 0


def test_secret_can_be_updated(connection):
    done = []
    connection._impl.update_secret("guest", "routine", callback=done.append)
    while not done:
        connection.process_data_events(time_limit=0.1)
    assert done[0].method.NAME == "Connection.UpdateSecretOk"
