"""What the pika suites share: connections, unique names, a collecting consumer.

Every name carries a random prefix and is deleted after its test, so that a run can
share a broker with others. AMQP_URL names the broker.
"""

import os
import time
import uuid
from contextlib import contextmanager

import pika
import pytest

PATIENCE = 15.0


def parameters(**changes):
    """Connection parameters from AMQP_URL, with some of them changed."""
    result = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/"))
    for key, value in changes.items():
        setattr(result, key, value)
    return result


@pytest.fixture
def connect():
    """Opens connections that are closed when the test ends."""
    opened = []

    def open_one(**changes):
        opened.append(pika.BlockingConnection(parameters(**changes)))
        return opened[-1]

    yield open_one
    for connection in opened:
        if connection.is_open:
            connection.close()


@pytest.fixture
def connection(connect):
    return connect()


@pytest.fixture
def channel(connection):
    return connection.channel()


class Names:
    """Unique names of one test; remembers them for the cleaning."""

    def __init__(self):
        self.prefix = f"clients-python-{uuid.uuid4().hex[:10]}"
        self.queues = []
        self.exchanges = []

    def queue(self, label="q"):
        self.queues.append(f"{self.prefix}-{label}")
        return self.queues[-1]

    def exchange(self, label="x"):
        self.exchanges.append(f"{self.prefix}-{label}")
        return self.exchanges[-1]


@pytest.fixture
def names():
    made = Names()
    yield made
    connection = pika.BlockingConnection(parameters())
    channel = connection.channel()
    for queue in made.queues:
        channel.queue_delete(queue)
    for exchange in made.exchanges:
        channel.exchange_delete(exchange)
    connection.close()


@pytest.fixture
def queue(names, channel):
    """A durable queue."""
    name = names.queue()
    channel.queue_declare(name, durable=True)
    return name


class Inbox:
    """A consumer that keeps what it gets."""

    def __init__(self, channel, queue, **options):
        self.channel = channel
        self.got = []
        self.tag = channel.basic_consume(queue, self._take, **options)

    def _take(self, _channel, method, properties, body):
        self.got.append((method, properties, body))

    def wait(self, count):
        """Waits for `count` deliveries in all; fails when they do not come."""
        until(self.channel.connection, lambda: len(self.got) >= count)
        return self.got

    @property
    def bodies(self):
        return [body for _, _, body in self.got]

    @property
    def tags(self):
        return [method.delivery_tag for method, _, _ in self.got]


def until(connection, done):
    """Serves the connection until `done()`, at most PATIENCE seconds."""
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, "waited too long"
        connection.process_data_events(time_limit=0.05)


def ready(channel, queue):
    """How many messages are ready, after all that this channel sent before."""
    return channel.queue_declare(queue, passive=True).method.message_count


def until_ready(channel, queue, count):
    """Waits until the queue has so many ready messages."""
    until(channel.connection, lambda: ready(channel, queue) == count)


def fill(channel, queue, *bodies, **properties):
    """Publishes the bodies to the queue and waits until they are all in it."""
    before = ready(channel, queue)
    for body in bodies:
        channel.basic_publish("", queue, body, pika.BasicProperties(**properties))
    until_ready(channel, queue, before + len(bodies))


def get(channel, queue, auto_ack=True):
    """Fetches one message, waiting for it to be routed; fails when none comes."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        method, properties, body = channel.basic_get(queue, auto_ack=auto_ack)
        if method:
            return method, properties, body
        channel.connection.process_data_events(time_limit=0.02)
    raise AssertionError(f"no message in {queue}")


@contextmanager
def channel_refused(code, text):
    """Expects the broker to close the channel with this code and text prefix."""
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as caught:
        yield
    assert caught.value.reply_code == code
    assert caught.value.reply_text.startswith(text), caught.value.reply_text


class Count:
    """Counts the tests for the closing line."""

    passed = failed = skipped = 0


def pytest_runtest_logreport(report):
    if report.failed:
        Count.failed += 1
    elif report.skipped:
        Count.skipped += 1
    elif report.when == "call":
        Count.passed += 1


def pytest_collectreport(report):
    if report.failed:
        Count.failed += 1


def pytest_unconfigure():
    print(f"\npython: {Count.passed} passed, {Count.failed} failed, {Count.skipped} skipped")
