"""Publishing: confirms one by one and in bulk, returns, bodies, properties, headers."""

import datetime
import decimal

import pika
import pytest
from pika.spec import BasicProperties

from conftest import Inbox, channel_refused, fill, get, parameters, ready, until, until_ready

FRAME = 131072 - 8


def test_a_confirmed_message_is_in_the_queue(channel, queue):
    channel.confirm_delivery()
    for number in range(1, 6):
        channel.basic_publish("", queue, b"m", BasicProperties(delivery_mode=2))
        assert ready(channel, queue) == number


class Publisher:
    """pika's asynchronous publisher: sends all, then counts confirms."""

    def __init__(self, queue, count):
        self.queue, self.count = queue, count
        self.outstanding = set(range(1, count + 1))
        self.nacked, self.acks = 0, 0
        self.connection = pika.SelectConnection(
            parameters(),
            on_open_callback=lambda c: c.channel(on_open_callback=self.opened),
            on_open_error_callback=lambda c, error: self.stop(),
            on_close_callback=lambda c, reason: c.ioloop.stop(),
        )

    def opened(self, channel):
        self.channel = channel
        channel.confirm_delivery(ack_nack_callback=self.confirmed, callback=self.publish)

    def publish(self, _frame):
        for number in range(self.count):
            self.channel.basic_publish("", self.queue, b"%d" % number, BasicProperties(delivery_mode=2))

    def confirmed(self, frame):
        method = frame.method
        self.acks += 1
        self.nacked += method.NAME == "Basic.Nack"
        if method.multiple:
            self.outstanding = {n for n in self.outstanding if n > method.delivery_tag}
        else:
            assert method.delivery_tag in self.outstanding, "confirmed twice"
            self.outstanding.remove(method.delivery_tag)
        if not self.outstanding:
            self.connection.close()

    def stop(self):
        self.connection.ioloop.stop()

    def run(self, limit):
        self.connection.ioloop.call_later(limit, self.stop)
        self.connection.ioloop.start()


def test_a_batch_is_confirmed_completely_and_in_order(channel, queue):
    publisher = Publisher(queue, 2000)
    publisher.run(limit=30)
    assert not publisher.outstanding and publisher.nacked == 0
    assert publisher.acks <= 2000
    inbox = Inbox(channel, queue, auto_ack=True).wait(2000)
    assert [body for _, _, body in inbox] == [b"%d" % n for n in range(2000)]


def test_unroutable_without_mandatory_is_confirmed(channel):
    channel.confirm_delivery()
    channel.basic_publish("amq.direct", "nobody-listens-here", b"m")


def test_mandatory_unroutable_comes_back_before_its_confirm(connection):
    channel = connection.channel()
    order = []
    channel.confirm_delivery()
    channel._impl.add_on_return_callback(lambda *_: order.append("return"))
    channel._impl.add_callback(lambda _: order.append("ack"), [pika.spec.Basic.Ack], one_shot=False)
    with pytest.raises(pika.exceptions.UnroutableError) as caught:
        channel.basic_publish(
            "amq.direct", "nobody-listens-here", b"back", BasicProperties(message_id="7"), mandatory=True
        )
    (returned,) = caught.value.messages
    assert (returned.method.reply_code, returned.method.reply_text) == (312, "NO_ROUTE")
    assert (returned.method.exchange, returned.method.routing_key) == ("amq.direct", "nobody-listens-here")
    assert returned.properties.message_id == "7" and returned.body == b"back"
    assert order == ["return", "ack"]


def test_mandatory_return_without_confirms(connection, channel):
    returned = []
    channel.add_on_return_callback(lambda *args: returned.append(args))
    channel.basic_publish("", "nobody-listens-here", b"back", mandatory=True)
    until(connection, lambda: returned)
    _, method, _, body = returned[0]
    assert (method.reply_code, method.reply_text, method.routing_key) == (312, "NO_ROUTE", "nobody-listens-here")
    assert body == b"back"


def test_mandatory_routed_does_not_come_back(channel, queue):
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"m", mandatory=True)
    assert ready(channel, queue) == 1


def test_missing_exchange_closes_the_channel(channel):
    channel.confirm_delivery()
    with channel_refused(404, "NOT_FOUND - no exchange 'nowhere-at-all' in vhost '/'"):
        channel.basic_publish("nowhere-at-all", "k", b"m")


def test_internal_exchange_refuses(channel, names):
    name = names.exchange()
    channel.exchange_declare(name, "fanout", internal=True)
    channel.confirm_delivery()
    with channel_refused(403, f"ACCESS_REFUSED - cannot publish to internal exchange '{name}' in vhost '/'"):
        channel.basic_publish(name, "k", b"m")


def test_invalid_expiration_is_406(channel, queue):
    channel.confirm_delivery()
    with channel_refused(406, "PRECONDITION_FAILED - invalid expiration 'soon'"):
        channel.basic_publish("", queue, b"m", BasicProperties(expiration="soon"))


def test_a_foreign_user_id_is_406(channel, queue):
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"m", BasicProperties(user_id="guest"))
    text = "PRECONDITION_FAILED - user_id property set to 'other' but authenticated user was 'guest'"
    with channel_refused(406, text):
        channel.basic_publish("", queue, b"m", BasicProperties(user_id="other"))


@pytest.mark.parametrize("size", [0, 1, FRAME - 1, FRAME, FRAME + 1, 3 * FRAME, 1 << 20])
def test_bodies_of_every_size(channel, queue, size):
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    channel.confirm_delivery()
    channel.basic_publish("", queue, body, BasicProperties(delivery_mode=2))
    channel.basic_publish("", queue, body)
    assert get(channel, queue)[2] == body
    assert Inbox(channel, queue, auto_ack=True).wait(1)[0][2] == body


def test_all_properties_round_trip(channel, queue):
    sent = BasicProperties(
        content_type="application/json",
        content_encoding="gzip",
        headers={"k": "v"},
        delivery_mode=2,
        priority=7,
        correlation_id="correlation ü",
        reply_to="somewhere",
        expiration="3600000",
        message_id="message-1",
        timestamp=1_700_000_000,
        type="kind",
        user_id="guest",
        app_id="suite",
    )
    fill(channel, queue, b"full", **{k: v for k, v in vars(sent).items() if v is not None})
    assert get(channel, queue)[1] == sent
    fill(channel, queue, b"none")
    assert get(channel, queue)[1] == BasicProperties()
    fill(channel, queue, b"empty", headers={}, content_type="")
    assert get(channel, queue)[1] == BasicProperties(headers={}, content_type="")


def test_all_header_types_round_trip(channel, queue):
    headers = {
        "true": True,
        "false": False,
        "zero": 0,
        "int": -123456,
        "wide": 2**40,
        "least": -(2**63),
        "most": 2**63 - 1,
        "text": "grüße",
        "empty": "",
        "long": "x" * 5000,
        "bytes": b"\x00\xff\x80",
        "nothing": None,
        "decimal": decimal.Decimal("12.34"),
        "time": datetime.datetime(2026, 1, 2, 3, 4, 5),
        "list": [1, "two", False, None, [3, {"deep": "er"}]],
        "table": {"inner": {"more": [1, 2, 3]}, "none": {}},
        "none": [],
    }
    fill(channel, queue, b"m", headers=headers)
    assert get(channel, queue)[1].headers == headers


def test_publish_order_is_kept(channel, queue):
    bodies = [b"%d" % number for number in range(1000)]
    for body in bodies:
        channel.basic_publish("", queue, body)
    until_ready(channel, queue, 1000)
    assert [body for _, _, body in Inbox(channel, queue, auto_ack=True).wait(1000)] == bodies


def test_transactions_commit_and_roll_back(connection, channel, queue):
    other = connection.channel()
    channel.tx_select()
    channel.basic_publish("", queue, b"kept")
    assert ready(other, queue) == 0
    channel.tx_commit()
    assert ready(other, queue) == 1
    channel.basic_publish("", queue, b"dropped")
    channel.tx_rollback()
    method, _, body = channel.basic_get(queue)
    assert body == b"kept" and ready(other, queue) == 0
    channel.basic_ack(method.delivery_tag)
    channel.tx_commit()
    channel.close()
    assert ready(other, queue) == 0


def test_confirms_and_transactions_do_not_mix(connection):
    with channel_refused(406, "PRECONDITION_FAILED - cannot switch from confirm to tx mode"):
        channel = connection.channel()
        channel.confirm_delivery()
        channel.tx_select()
    with channel_refused(406, "PRECONDITION_FAILED - cannot switch from tx to confirm mode"):
        channel = connection.channel()
        channel.tx_select()
        channel.confirm_delivery()
