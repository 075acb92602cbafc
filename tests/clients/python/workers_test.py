"""Workers over HTTP and over AMQP on one queue: one order, one set of rules, each message once.

Only Leveret has these. HTTP_URL names its HTTP side (http://localhost:15672).
"""

import base64
import json
import socket
import threading
import time

from pika.spec import BasicProperties

from calls_test import SERVER, request
from conftest import PATIENCE, fill, get, ready, until

JSON = {"Content_Type": "application/json"}


def post(path, body):
    return request("POST", f"/v1/queues/{path}", json.dumps(body), **JSON)


def receive(queue, **wish):
    answer = post(f"{queue}/messages:receive", wish)
    assert answer.status == 200, answer.body
    return answer.json["messages"]


def end(queue, message, how="ack", **body):
    return post(f"{queue}/leases/{message['lease']}/{how}", body).status


def test_http_and_amqp_workers_share_a_queue(names, channel, connection):
    """Three hundred messages, two workers of each kind: each is done once, and everybody works."""
    queue = names.queue()
    channel.queue_declare(queue, durable=True, arguments={"x-lease-timeout": 60_000})
    done = {"http": [], "amqp": []}
    stop = threading.Event()

    def work_http():
        while not stop.is_set():
            for message in receive(queue, max=5, wait_ms=500):
                assert end(queue, message) == 204
                done["http"].append(message["body"])

    def take(channel, method, _properties, body):
        done["amqp"].append(body.decode())
        time.sleep(0.002)
        channel.basic_ack(method.delivery_tag)

    workers = [threading.Thread(target=work_http) for _ in range(2)]
    for worker in workers:
        worker.start()
    for _ in range(2):
        other = connection.channel()
        other.basic_qos(prefetch_count=3)
        other.basic_consume(queue, take)
    channel.confirm_delivery()
    bodies = [str(number) for number in range(300)]
    for start in range(0, 300, 100):
        batch = [{"body": body} for body in bodies[start:start + 50]]
        assert post(f"{queue}/messages", {"messages": batch}).status == 201
        for body in bodies[start + 50:start + 100]:
            channel.basic_publish("", queue, body, BasicProperties(delivery_mode=2))
    until(connection, lambda: len(done["http"]) + len(done["amqp"]) >= 300)
    stop.set()
    for worker in workers:
        worker.join(PATIENCE)
    assert sorted(done["http"] + done["amqp"], key=int) == bodies
    assert done["http"] and done["amqp"]
    assert ready(channel, queue) == 0


def test_a_lease_that_ends_goes_on_to_a_pika_worker(names, channel):
    """The HTTP worker is late: the message is another's, and its ack settles nothing."""
    queue = names.queue()
    channel.queue_declare(queue, durable=True, arguments={"x-retry-limit": 3})
    fill(channel, queue, "a", delivery_mode=2)
    message, = receive(queue, wait_ms=5_000, lease_ms=200)
    assert (message["attempt"], message["redelivered"]) == (1, False)
    method, properties, body = get(channel, queue, auto_ack=False)
    assert (body, method.redelivered, properties.headers["x-attempt"]) == (b"a", True, 2)
    assert end(queue, message) == 410
    channel.basic_nack(method.delivery_tag, requeue=True)
    again, = receive(queue, wait_ms=5_000)
    assert again["attempt"] == 3
    assert end(queue, again) == 204
    assert end(queue, again) == 410
    assert ready(channel, queue) == 0


def test_a_failure_over_http_is_a_dead_letter_for_pika(names, channel):
    """After its last attempt the message is in the dead-letter queue, with the worker's reason."""
    queue = names.queue()
    names.queues.append(f"{queue}.dlq")
    channel.queue_declare(queue, durable=True, arguments={"x-retry-limit": 0})
    fill(channel, queue, "a", delivery_mode=2)
    message, = receive(queue, wait_ms=5_000)
    assert end(queue, message, "fail", reason="no-stock", detail="of 7") == 204
    _, properties, body = get(channel, f"{queue}.dlq")
    assert body == b"a"
    assert properties.headers["x-last-error"] == "rejected: no-stock: of 7"


def test_a_lost_http_worker_gives_back_what_it_waited_for(names, channel):
    """A client that hangs up while it waits takes no message with it."""
    queue = names.queue()
    channel.queue_declare(queue, durable=True)
    login = base64.b64encode(b"guest:guest").decode()
    body = json.dumps({"wait_ms": 60_000})
    head = (
        f"POST /v1/queues/{queue}/messages:receive HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {login}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    )

    def consumers():
        return channel.queue_declare(queue, passive=True).method.consumer_count

    with socket.create_connection((SERVER.hostname, SERVER.port or 80)) as link:
        link.sendall(head.encode())
        until(channel.connection, lambda: consumers() == 1)
    until(channel.connection, lambda: consumers() == 0)
    fill(channel, queue, "a", delivery_mode=2)
    method, _, _ = get(channel, queue, auto_ack=False)
    assert not method.redelivered


def test_a_queue_without_room_refuses_over_http(names, channel):
    queue = names.queue()
    channel.queue_declare(queue, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    assert request("POST", f"/v1/queues/{queue}/messages", b"1").status == 201
    full = request("POST", f"/v1/queues/{queue}/messages", b"2")
    full.problem(503, "queue-full")
    assert full.headers["Retry-After"] == "1"
    assert ready(channel, queue) == 1
