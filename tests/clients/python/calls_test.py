"""Deferred calls: POST to a queue, an ordinary worker answers, the result is fetched.

Only Leveret has these. HTTP_URL names its HTTP side (http://localhost:15672).
"""

import base64
import http.client
import json
import os
import threading
import time
import urllib.parse
import uuid

import pika
import pytest
from pika.spec import BasicProperties

from conftest import PATIENCE, fill, get, parameters, ready

SERVER = urllib.parse.urlsplit(os.environ.get("HTTP_URL", "http://localhost:15672"))
OPEN = {"scheduled", "queued", "running", "retrying"}
MORE_THAN_ANY_LIMIT = 1 << 31


class Answer:
    """Status, headers and body of one response."""

    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self):
        return json.loads(self.body)

    def problem(self, status, kind):
        """Expects problem+json of this kind (RFC 9457)."""
        assert self.status == status, self.body
        assert self.headers.get_content_type() == "application/problem+json"
        problem = self.json
        assert problem["status"] == status
        assert problem["type"].rsplit("/", 1)[-1].rsplit(":", 1)[-1].rsplit("#", 1)[-1] == kind, problem
        assert problem["title"]


def request(method, path, body=None, user="guest", password="guest", **headers):
    """Sends one request; header names are written with underscores."""
    link = http.client.HTTPConnection(SERVER.hostname, SERVER.port or 80, timeout=PATIENCE)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if user is not None:
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        named["Authorization"] = f"Basic {login}"
    try:
        link.request(method, urllib.parse.urlsplit(path)._replace(scheme="", netloc="").geturl(), body, named)
        return Answer(link.getresponse())
    finally:
        link.close()


def call(queue, body=b'{"n":30}', **headers):
    """POSTs a call to a queue."""
    headers.setdefault("Content_Type", "application/json")
    return request("POST", "/v1/calls/queue/" + urllib.parse.quote(queue, safe=""), body, **headers)


def accepted(answer):
    """The job's address, from a 202."""
    assert answer.status == 202, answer.body
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.headers["Location"]
    return answer.headers["Location"]


def wait_for(job, *states):
    """Polls the job until it is in one of the states."""
    deadline = time.monotonic() + PATIENCE
    while True:
        answer = request("GET", job)
        assert answer.status == 200, answer.body
        if answer.json["state"] in states:
            return answer.json
        assert time.monotonic() < deadline, answer.json
        time.sleep(0.05)


def reply(channel, queue, body=b'{"fib":832040}', content_type="application/json", **properties):
    """Takes one call from the queue and answers it as a worker does."""
    method, asked, got = get(channel, queue, auto_ack=False)
    sent = BasicProperties(correlation_id=asked.correlation_id, content_type=content_type, **properties)
    channel.basic_publish("", asked.reply_to, body, sent)
    channel.basic_ack(method.delivery_tag)
    return asked, got


def test_a_call_is_accepted_answered_and_fetched(channel, queue):
    answer = call(queue)
    job = accepted(answer)
    assert answer.json["state"] in OPEN
    identity = answer.json["id"]
    assert job.endswith("/v1/jobs/" + identity)

    state = request("GET", job)
    assert state.status == 200 and state.json["state"] in OPEN and state.json["done"] is False
    assert int(state.headers["Retry-After"]) >= 1
    pending = request("GET", job + "/result")
    assert pending.status == 202 and int(pending.headers["Retry-After"]) >= 1

    asked, got = reply(channel, queue)
    assert got == b'{"n":30}'
    assert asked.content_type == "application/json" and asked.delivery_mode == 2
    assert asked.correlation_id == identity and asked.message_id == identity

    done = wait_for(job, "succeeded")
    assert done["done"] is True and done["id"] == identity
    result = request("GET", job + "/result")
    assert (result.status, result.body) == (200, b'{"fib":832040}')
    assert result.headers["Content-Type"] == "application/json"
    assert ready(channel, queue) == 0


@pytest.mark.parametrize(
    "body, content_type",
    [(b"\x00\xff\x80\r\n" * 100, "application/octet-stream"), ("grüße".encode(), "text/plain; charset=utf-8"), (b"", "text/csv")],
)
def test_bodies_pass_verbatim_both_ways(channel, queue, body, content_type):
    job = accepted(call(queue, body, Content_Type=content_type))
    asked, got = reply(channel, queue, body, content_type)
    assert (asked.content_type, got) == (content_type, body)
    wait_for(job, "succeeded")
    result = request("GET", job + "/result")
    assert (result.status, result.body, result.headers["Content-Type"]) == (200, body, content_type)


def test_prefer_wait_answers_in_one_call(queue):
    # The worker answers while the request waits, so it has a thread and a connection of its own.
    def work():
        worker = pika.BlockingConnection(parameters())
        reply(worker.channel(), queue)
        worker.close()

    thread = threading.Thread(target=work)
    thread.start()
    answer = call(queue, Prefer="wait=5")
    thread.join()
    assert (answer.status, answer.body) == (200, b'{"fib":832040}')
    assert answer.headers["Content-Type"] == "application/json"
    assert "wait=5" in answer.headers["Preference-Applied"]


def test_prefer_wait_that_runs_out_is_accepted(channel, queue):
    job = accepted(call(queue, Prefer="wait=1"))
    reply(channel, queue)
    wait_for(job, "succeeded")


def test_respond_async_does_not_wait(queue):
    accepted(call(queue, Prefer="respond-async"))


def test_an_idempotency_key_returns_the_same_job(channel, queue):
    key = f'"{uuid.uuid4()}"'
    first = call(queue, Idempotency_Key=key)
    again = call(queue, Idempotency_Key=key)
    assert accepted(first) == accepted(again)
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert ready(channel, queue) == 1
    reply(channel, queue)
    wait_for(accepted(first), "succeeded")
    late = call(queue, Idempotency_Key=key)
    assert late.headers["Idempotent-Replayed"] == "true" and ready(channel, queue) == 0
    # Without a key, equal calls are two calls.
    assert accepted(call(queue)) != accepted(call(queue))


def test_a_key_used_for_another_body_is_422(queue):
    key = f'"{uuid.uuid4()}"'
    accepted(call(queue, b"1", Idempotency_Key=key))
    call(queue, b"2", Idempotency_Key=key).problem(422, "idempotency-key-reused")


def test_the_same_key_for_another_queue_is_another_job(channel, names, queue):
    key, other = f'"{uuid.uuid4()}"', names.queue("other")
    channel.queue_declare(other, durable=True)
    assert accepted(call(queue, Idempotency_Key=key)) != accepted(call(other, Idempotency_Key=key))


@pytest.mark.parametrize("key", ['"' + "k" * 256 + '"', '""', '"open', "with space"])
def test_a_malformed_key_is_400(channel, queue, key):
    call(queue, Idempotency_Key=key).problem(400, "idempotency-key-invalid")
    assert ready(channel, queue) == 0


def test_an_unknown_target_is_404():
    call("nowhere-at-all").problem(404, "unknown-target")


def test_an_unknown_job_is_404():
    for identity in (uuid.uuid4(), "not-an-id"):
        request("GET", f"/v1/jobs/{identity}").problem(404, "job-not-found")
        request("GET", f"/v1/jobs/{identity}/result").problem(404, "job-not-found")


def test_a_body_too_large_is_413_by_its_length(channel, queue):
    link = http.client.HTTPConnection(SERVER.hostname, SERVER.port or 80, timeout=PATIENCE)
    link.putrequest("POST", "/v1/calls/queue/" + queue)
    link.putheader("Authorization", "Basic " + base64.b64encode(b"guest:guest").decode())
    link.putheader("Content-Length", str(MORE_THAN_ANY_LIMIT))
    # Only the headers go out: the length alone must be reason enough.
    link.endheaders()
    answer = Answer(link.getresponse())
    link.close()
    answer.problem(413, "payload-too-large")
    assert ready(channel, queue) == 0


def test_an_error_of_the_worker_fails_the_job(channel, queue):
    job = accepted(call(queue))
    error = json.dumps({"type": "about:blank", "title": "no such number", "status": 400}).encode()
    reply(channel, queue, error, "application/problem+json")
    state = wait_for(job, "failed")
    assert state["done"] is True and state["error"]
    request("GET", job + "/result").problem(502, "worker-error")


def test_the_first_reply_wins(channel, queue):
    job = accepted(call(queue))
    asked, _ = reply(channel, queue, b"first", "text/plain")
    wait_for(job, "succeeded")
    late = BasicProperties(correlation_id=asked.correlation_id, content_type="text/plain")
    channel.confirm_delivery()
    channel.basic_publish("", asked.reply_to, b"second", late)
    assert request("GET", job + "/result").body == b"first"


def test_a_wrong_password_is_401(queue):
    for answer in (
        call(queue, password="wrong"),
        call(queue, user=None),
        request("GET", f"/v1/jobs/{uuid.uuid4()}", password="wrong"),
    ):
        assert answer.status == 401, answer.body
        assert answer.headers["WWW-Authenticate"].startswith("Basic")


def test_names_are_percent_decoded(channel, names):
    queue = names.queue("wide name/ü")
    channel.queue_declare(queue, durable=True)
    accepted(call(queue))
    assert ready(channel, queue) == 1


def test_calls_and_messages_share_a_queue(channel, queue):
    fill(channel, queue, b"by message")
    job = accepted(call(queue, b"by call"))
    assert get(channel, queue)[2] == b"by message"
    assert reply(channel, queue)[1] == b"by call"
    wait_for(job, "succeeded")


def test_a_call_that_returns_to_the_queue_is_answered_once(channel, queue):
    job = accepted(call(queue))
    method, _, _ = get(channel, queue, auto_ack=False)
    channel.basic_nack(method.delivery_tag, requeue=True)
    reply(channel, queue)
    assert wait_for(job, "succeeded")["done"] is True
    assert ready(channel, queue) == 0


def test_the_server_tells_its_health_and_its_api():
    assert request("GET", "/healthz", user=None).status == 200
    assert request("GET", "/readyz", user=None).status == 200
    described = request("GET", "/v1/openapi.json").json
    assert described["openapi"].startswith("3.1")
    assert any(path.startswith("/v1/calls/") for path in described["paths"])
    assert "leveret" in request("GET", "/metrics", user=None).body.decode()
