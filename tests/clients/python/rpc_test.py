"""Request and reply: the pseudo queue of direct reply-to, and reply queues of old."""

from pika.spec import BasicProperties

from conftest import Inbox, channel_refused, get, ready

REPLY_TO = "amq.rabbitmq.reply-to"


def answer(channel, queue):
    """A worker: answers each request with its body in capitals."""

    def work(_channel, method, properties, body):
        channel.basic_publish(
            "", properties.reply_to, body.upper(), BasicProperties(correlation_id=properties.correlation_id)
        )
        channel.basic_ack(method.delivery_tag)

    channel.basic_consume(queue, work)


def test_direct_reply_to(connection, channel, queue):
    answer(connection.channel(), queue)
    replies = Inbox(channel, REPLY_TO, auto_ack=True)
    for number in range(20):
        properties = BasicProperties(reply_to=REPLY_TO, correlation_id=str(number))
        channel.basic_publish("", queue, b"call %d" % number, properties)
    got = replies.wait(20)
    assert {p.correlation_id: body for _, p, body in got} == {str(n): b"CALL %d" % n for n in range(20)}
    method = got[0][0]
    assert method.exchange == "" and method.routing_key.startswith(REPLY_TO + ".")


def test_the_worker_sees_an_opaque_reply_address(channel, queue):
    Inbox(channel, REPLY_TO, auto_ack=True)
    channel.basic_publish("", queue, b"m", BasicProperties(reply_to=REPLY_TO, message_id="kept"))
    properties = get(channel, queue)[1]
    assert properties.reply_to.startswith(REPLY_TO + ".") and len(properties.reply_to) > len(REPLY_TO) + 1
    assert properties.message_id == "kept"


def test_replies_to_two_clients_do_not_mix(connect, queue):
    worker = connect()
    answer(worker.channel(), queue)
    clients = [connect().channel() for _ in range(2)]
    inboxes = [Inbox(client, REPLY_TO, auto_ack=True) for client in clients]
    for client, body in zip(clients, (b"one", b"two")):
        client.basic_publish("", queue, body, BasicProperties(reply_to=REPLY_TO))
    for _ in range(300):
        worker.process_data_events(time_limit=0.02)
        for client in clients:
            client.connection.process_data_events(time_limit=0.01)
        if all(inbox.got for inbox in inboxes):
            break
    assert [inbox.bodies for inbox in inboxes] == [[b"ONE"], [b"TWO"]]


def test_requests_without_a_reply_consumer_are_406(channel, queue):
    channel.confirm_delivery()
    with channel_refused(406, "PRECONDITION_FAILED - fast reply consumer does not exist"):
        channel.basic_publish("", queue, b"m", BasicProperties(reply_to=REPLY_TO))


def test_the_reply_consumer_cannot_ack(channel):
    with channel_refused(406, "PRECONDITION_FAILED - reply consumer cannot acknowledge"):
        channel.basic_consume(REPLY_TO, print, auto_ack=False)


def test_one_reply_consumer_a_channel(channel):
    channel.basic_consume(REPLY_TO, print, auto_ack=True)
    with channel_refused(406, "PRECONDITION_FAILED - reply consumer already set"):
        channel.basic_consume(REPLY_TO, print, auto_ack=True)


def test_replies_to_a_gone_client_are_dropped(connect, channel, queue):
    client = connect()
    asking = client.channel()
    Inbox(asking, REPLY_TO, auto_ack=True)
    asking.basic_publish("", queue, b"m", BasicProperties(reply_to=REPLY_TO))
    address = get(channel, queue)[1].reply_to
    client.close()
    channel.confirm_delivery()
    channel.basic_publish("", address, b"too late")
    assert ready(channel, queue) == 0


def test_a_reply_queue_of_ones_own(connection, channel, queue):
    answer(connection.channel(), queue)
    mine = channel.queue_declare("", exclusive=True).method.queue
    replies = Inbox(channel, mine, auto_ack=True)
    channel.basic_publish("", queue, b"classic", BasicProperties(reply_to=mine, correlation_id="c"))
    _, properties, body = replies.wait(1)[0]
    assert (properties.correlation_id, body) == ("c", b"CLASSIC")
