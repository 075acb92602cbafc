"""Full queues that block: pika's publishers are stopped, told and let go, and nothing is lost.

Only Leveret has them.
"""

import os
import subprocess
import sys
import threading
import time

import pika

from conftest import PATIENCE, parameters, ready, until

LIMIT = 100
BODY = 1_000
# Passed by what one turn of the socket holds (256 KiB), and by four small ones (16 KiB each) of a
# publisher that does not listen.
MOST = LIMIT + (256 + 4 * 16) * 1024 // BODY + 2
BLOCK = {"x-max-length": LIMIT, "x-overflow": "block"}


def body(number):
    return f"{number:<{BODY}}".encode()


def number_of(body):
    return int(body.decode())


class Publisher(threading.Thread):
    """Publishes numbers on a connection of its own; waits when told to, if it `listens`."""

    def __init__(self, queue, count, listens):
        super().__init__(daemon=True)
        self.queue, self.count, self.listens = queue, count, listens
        self.told = []
        self.start()

    def run(self):
        connection = pika.BlockingConnection(parameters())
        connection.add_on_connection_blocked_callback(lambda _, m: self.told.append(m.method.reason))
        connection.add_on_connection_unblocked_callback(lambda *_: self.told.append(None))
        channel = connection.channel()
        for number in range(self.count):
            channel.basic_publish("", self.queue, body(number))
            if self.listens:
                connection.process_data_events(0)
                while self.told and self.told[-1]:
                    connection.process_data_events(0.1)
        connection.close()


def drain(channel, queue, count, slow=0.0):
    """Takes and acks so many; answers their numbers and the longest that the queue was."""
    numbers, longest = [], 0
    channel.basic_qos(prefetch_count=10)
    for method, _, got in channel.consume(queue, inactivity_timeout=PATIENCE):
        assert method is not None, f"only {len(numbers)} came"
        numbers.append(number_of(got))
        channel.basic_ack(method.delivery_tag)
        time.sleep(slow)
        if len(numbers) % 100 == 0:
            longest = max(longest, ready(channel, queue))
        if len(numbers) == count:
            break
    channel.cancel()
    return numbers, longest


def test_a_fast_publisher_waits_for_a_slow_consumer(names, channel):
    """One that listens: no message is lost, and the queue is hardly longer than it may be."""
    queue = names.queue()
    channel.queue_declare(queue, durable=True, arguments=BLOCK)
    publisher = Publisher(queue, 3_000, listens=True)
    numbers, longest = drain(channel, queue, 3_000, slow=0.0005)
    publisher.join(PATIENCE)
    assert numbers == list(range(3_000))
    assert longest <= MOST
    assert publisher.told[0] == f"queue '{queue}' in vhost '/' is full"
    until(channel.connection, lambda: publisher.told[-1] is None)


def test_a_publisher_that_does_not_listen_is_not_read(names, channel):
    """Nobody consumes for a while: TCP holds what the queue has no room for."""
    queue = names.queue()
    channel.queue_declare(queue, durable=True, arguments=BLOCK)
    publisher = Publisher(queue, 20_000, listens=False)
    until(channel.connection, lambda: ready(channel, queue) >= LIMIT)
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        assert LIMIT <= ready(channel, queue) <= MOST
        channel.connection.process_data_events(0.1)
    assert publisher.is_alive()
    numbers, longest = drain(channel, queue, 20_000)
    publisher.join(PATIENCE)
    assert numbers == list(range(20_000))
    assert longest <= MOST


def test_one_connection_publishes_and_consumes(names, channel):
    """Its acks are behind its messages, and are read: it gets all that it sent."""
    queue = names.queue()
    channel.queue_declare(queue, durable=True, arguments=BLOCK)
    channel.basic_qos(prefetch_count=20)
    got = []

    def take(channel, method, _properties, body):
        got.append(number_of(body))
        channel.basic_ack(method.delivery_tag)

    channel.basic_consume(queue, take)
    other = channel.connection.channel()
    for number in range(1_000):
        other.basic_publish("", queue, body(number))
        if number % 100 == 0:
            channel.connection.process_data_events(0)
    until(channel.connection, lambda: len(got) == 1_000)
    assert got == list(range(1_000))


def test_a_publisher_that_is_killed_holds_nothing(names, channel):
    queue = names.queue()
    channel.queue_declare(queue, durable=True, arguments=BLOCK)
    code = f"""if True:
        import pika
        channel = pika.BlockingConnection(pika.URLParameters({os.environ["AMQP_URL"]!r})).channel()
        while True:
            channel.basic_publish("", {queue!r}, b"0")
    """
    victim = subprocess.Popen([sys.executable, "-c", code])
    try:
        until(channel.connection, lambda: ready(channel, queue) >= LIMIT)
    finally:
        victim.kill()
        victim.wait(PATIENCE)
    # What it had sent may come on as there is room; then it is over.
    channel.basic_qos(prefetch_count=200)
    channel.basic_consume(queue, lambda ch, m, *_: ch.basic_ack(m.delivery_tag))
    quiet = []

    def settled():
        quiet.append(ready(channel, queue))
        return len(quiet) > 20 and not any(quiet[-20:])

    until(channel.connection, settled)
    publisher = Publisher(queue, 50, listens=True)
    publisher.join(PATIENCE)
    assert not publisher.is_alive() and publisher.told == []
