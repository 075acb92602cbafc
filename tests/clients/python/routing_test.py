"""Routing: direct, fanout, topic, headers, exchange to exchange."""

import pytest
from pika.spec import BasicProperties

from conftest import get, ready


@pytest.fixture
def reaches(channel, names):
    """Binds queues to a new exchange and tells which of them a message reaches."""
    exchange = names.exchange()

    class Router:
        name = exchange

        def declare(self, kind):
            channel.exchange_declare(exchange, kind)
            channel.confirm_delivery()

        def bind(self, label, key="", arguments=None):
            queue = f"{names.prefix}-{label}"
            if queue not in names.queues:
                channel.queue_declare(names.queue(label))
            channel.queue_bind(queue, exchange, key, arguments)

        def __call__(self, key="", headers=None):
            channel.basic_publish(exchange, key, b"m", BasicProperties(headers=headers))
            found = {}
            for queue in names.queues:
                count = ready(channel, queue)
                channel.queue_purge(queue)
                if count:
                    found[queue.removeprefix(names.prefix + "-")] = count
            # A queue gets one copy, however many of its bindings match.
            assert all(count == 1 for count in found.values()), found
            return set(found)

    return Router()


def test_default_exchange_routes_by_queue_name(channel, names):
    one, two = names.queue("one"), names.queue("two")
    channel.queue_declare(one)
    channel.queue_declare(two)
    channel.confirm_delivery()
    channel.basic_publish("", two, b"m")
    assert (ready(channel, one), ready(channel, two)) == (0, 1)


def test_direct(reaches):
    reaches.declare("direct")
    reaches.bind("red", "red")
    reaches.bind("both", "red")
    reaches.bind("both", "blue")
    reaches.bind("none")
    assert reaches("red") == {"red", "both"}
    assert reaches("blue") == {"both"}
    assert reaches("Red") == set()
    # Without a key the empty one is meant, except when the queue's name is empty too.
    assert reaches("") == {"none"}


def test_fanout_ignores_the_key(reaches):
    reaches.declare("fanout")
    for label in "abc":
        reaches.bind(label, f"key of {label}")
    assert reaches("anything") == {"a", "b", "c"}
    assert reaches("") == {"a", "b", "c"}


# Routing key → the bindings below that match it.
TOPIC = {
    "stock.usd.nyse": {"all", "stars", "exact", "tail", "hash-end", "hash-mid", "two", "triple"},
    "stock.eur.nyse": {"all", "stars", "tail", "hash-end", "hash-mid", "triple"},
    "stock.usd": {"all", "two", "hash-end", "pair"},
    "stock": {"all", "one", "hash-end"},
    "": {"all", "none"},
    "stock.nyse": {"all", "hash-end", "hash-mid", "pair"},
    "stock.a.b.nyse": {"all", "hash-end", "hash-mid"},
    "..": {"all", "triple"},
    "a.b.c": {"all", "triple"},
    "stock.": {"all", "hash-end", "pair"},
    "x": {"all", "one"},
}


def test_topic(reaches):
    reaches.declare("topic")
    for label, pattern in (
        ("all", "#"),
        ("stars", "stock.*.nyse"),
        ("exact", "stock.usd.nyse"),
        ("tail", "*.*.nyse"),
        ("hash-end", "stock.#"),
        ("hash-mid", "stock.#.nyse"),
        ("two", "stock.usd.#"),
        ("one", "*"),
        ("none", ""),
        ("pair", "stock.*"),
        ("triple", "*.*.*"),
    ):
        reaches.bind(label, pattern)
    for key, expected in TOPIC.items():
        assert reaches(key) == expected, key


def test_topic_hashes_match_no_word(reaches):
    reaches.declare("topic")
    reaches.bind("double", "#.#")
    reaches.bind("inner", "a.#.#.b")
    reaches.bind("least", "#.*")
    assert reaches("") == {"double"}
    assert reaches("a.b") == {"double", "inner", "least"}
    assert reaches("a.x.y.b") == {"double", "inner", "least"}
    assert reaches("b.a") == {"double", "least"}


def test_headers_all(reaches):
    reaches.declare("headers")
    reaches.bind("all", arguments={"x-match": "all", "format": "pdf", "pages": 3})
    reaches.bind("default", arguments={"format": "pdf"})
    reaches.bind("everything", arguments={"x-match": "all"})
    assert reaches(headers={"format": "pdf", "pages": 3, "more": True}) == {"all", "default", "everything"}
    assert reaches(headers={"format": "pdf", "pages": 4}) == {"default", "everything"}
    assert reaches(headers={"pages": 3}) == {"everything"}
    assert reaches(headers=None) == {"everything"}


def test_headers_any(reaches):
    reaches.declare("headers")
    reaches.bind("any", arguments={"x-match": "any", "format": "pdf", "pages": 3})
    reaches.bind("nothing", arguments={"x-match": "any"})
    reaches.bind("present", arguments={"x-match": "any", "color": None})
    assert reaches(headers={"format": "pdf"}) == {"any"}
    assert reaches(headers={"pages": 3, "format": "zip"}) == {"any"}
    assert reaches(headers={"format": "zip"}) == set()
    assert reaches(headers={"color": "red"}) == {"present"}
    assert reaches(headers={}) == set()


def test_unbind_stops_routing(channel, names, reaches):
    reaches.declare("direct")
    reaches.bind("q", "k")
    reaches.bind("q", "l")
    channel.queue_unbind(names.queues[0], reaches.name, "k")
    assert reaches("k") == set() and reaches("l") == {"q"}
    # A binding that is not there is unbound without complaint.
    channel.queue_unbind(names.queues[0], reaches.name, "k")


def test_binding_arguments_tell_bindings_apart(channel, names, reaches):
    reaches.declare("headers")
    reaches.bind("q", "", {"a": 1})
    reaches.bind("q", "", {"b": 1})
    channel.queue_unbind(names.queues[0], reaches.name, "", {"a": 1})
    assert reaches(headers={"a": 1}) == set()
    assert reaches(headers={"b": 1}) == {"q"}


def test_exchange_to_exchange(channel, names, queue):
    source, middle = names.exchange("source"), names.exchange("middle")
    channel.exchange_declare(source, "topic")
    channel.exchange_declare(middle, "fanout")
    channel.exchange_bind(destination=middle, source=source, routing_key="eu.#")
    channel.queue_bind(queue, middle)
    channel.confirm_delivery()
    channel.basic_publish(source, "eu.de", b"through both")
    channel.basic_publish(source, "us.ny", b"not this one")
    assert ready(channel, queue) == 1
    method, _, body = get(channel, queue)
    assert (method.exchange, method.routing_key, body) == (source, "eu.de", b"through both")
    channel.exchange_unbind(destination=middle, source=source, routing_key="eu.#")
    channel.basic_publish(source, "eu.de", b"too late")
    assert ready(channel, queue) == 0


def test_a_diamond_of_exchanges_delivers_one_copy(channel, names, queue):
    top, left, right = (names.exchange(label) for label in ("top", "left", "right"))
    for name in (top, left, right):
        channel.exchange_declare(name, "fanout")
    for name in (left, right):
        channel.exchange_bind(destination=name, source=top)
        channel.queue_bind(queue, name)
    # A ring must not send a message round for ever.
    channel.exchange_bind(destination=top, source=left)
    channel.confirm_delivery()
    channel.basic_publish(top, "", b"m")
    assert ready(channel, queue) == 1
