#!/usr/bin/env python3
"""Runs every program of examples/ against a running server and checks what it prints.

    AMQP_URL=amqp://guest:guest@localhost:5672/ HTTP_URL=http://localhost:15672 \
        tests/clients/examples.py [python] [node] [go] [java] [rust]

Without HTTP_URL the call example is left out, as it needs the HTTP API. With LEVERET set to
the server's binary, examples/schedule/leveret.toml is served too, with a tick every second.
The examples' queues (QUEUES, below) are deleted before and after: do not point this at a server whose queues matter.
Needs tests/clients/install.sh python. Ends with one line of totals.
"""

import contextlib
import os
import pathlib
import queue
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

CLIENTS = pathlib.Path(__file__).resolve().parent
EXAMPLES = CLIENTS.parent.parent / "examples"
PYTHON = CLIENTS / "python" / ".venv" / "bin" / "python"
QUEUES = ["fib", "orders", "tasks", "events", "mails", "pictures", "reports", "shop", "bookings", "invoices",
          "invoices.dlq", "payments", "payments.dlq", "reminders", "charges", "parcels",
          "parcels.dlq", "renders", "renders.dlq", "sales", "letters", "tickets", "tickets.vip", "thumbnails",
          "transfers", "notices", "uploads", "uploads.dlq"]
PATIENCE = 30.0
BUILD = 600.0


class Program:
    """A running example, its output read line by line."""

    def __init__(self, folder, *command, **environment):
        environment = os.environ | {k: str(v) for k, v in environment.items()}
        self.name = " ".join(str(part) for part in command[-2:])
        self.process = subprocess.Popen(
            [str(part) for part in command], cwd=EXAMPLES / folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )
        self.seen = []
        self._lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def expect(self, pattern, patience=PATIENCE):
        """Waits for a line that matches; fails when the output ends or the time is over."""
        deadline = time.monotonic() + patience
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"{self.name}: no line like {pattern!r} in\n  " + "\n  ".join(self.seen))
            self.seen.append(line)
            if found := re.search(pattern, line):
                return found

    def ends(self, patience=PATIENCE):
        """Waits for the end; the exit code must be 0."""
        code = self.process.wait(patience)
        assert code == 0, f"{self.name}: exit code {code}\n  " + "\n  ".join(self.seen)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # The whole group, since go run and mvn start the program as a child.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def build(folder, *command):
    subprocess.run(command, cwd=EXAMPLES / folder, check=True, timeout=BUILD)


def publish_then_consume(folder, publisher, consumer, confirmed, confirms, got):
    """Ten messages published with confirms arrive in order at the consumer."""
    with Program(folder, *publisher) as program:
        for number in range(confirms):
            program.expect(confirmed.format(number))
        program.ends()
    with Program(folder, *consumer) as program:
        program.expect("waiting for ")
        for number in range(10):
            program.expect(got.format(number))


def python_confirms():
    with Program("python", PYTHON, "publisher_confirms.py") as program:
        for number in range(10):
            program.expect(f"^confirmed: order {number}$")
        program.ends()


def python_worker():
    """The worker answers an ordinary request, as any RabbitMQ client would send it."""
    ask = (
        "import os, pika; c = pika.BlockingConnection(pika.URLParameters(os.environ['AMQP_URL'])).channel()\n"
        "r = c.queue_declare('', exclusive=True).method.queue\n"
        "c.basic_publish('', 'fib', '{\"n\": 30}', pika.BasicProperties(reply_to=r, correlation_id='7'))\n"
        "m, p, b = next(c.consume(r, auto_ack=True, inactivity_timeout=20)); print(p.correlation_id, b.decode())"
    )
    with Program("python", PYTHON, "worker_fib.py") as worker:
        worker.expect("^waiting for calls$")
        with Program("python", PYTHON, "-c", ask) as client:
            client.expect(r'^7 {"fib": 832040}$')


def python_reports():
    """The consumer prints what stands in the headers of a tick."""
    tick = (
        "import os, pika; c = pika.BlockingConnection(pika.URLParameters(os.environ['AMQP_URL'])).channel()\n"
        "c.basic_publish('', 'reports', '{}', pika.BasicProperties("
        "headers={'x-schedule': 'report', 'x-scheduled-time': '2026-01-05T08:00:00Z'})); c.connection.close()"
    )
    with Program("python", PYTHON, "consumer_reports.py") as consumer:
        consumer.expect("^waiting for ticks$")
        with Program("python", PYTHON, "-c", tick) as publisher:
            publisher.ends()
        consumer.expect("^tick of report due at 2026-01-05T08:00:00Z: {}$")


def python_celery():
    """A chain, a group, a chord, a retry, an ETA, a revoked task, and the ticks of beat."""
    celery = PYTHON.parent / "celery"
    with tempfile.TemporaryDirectory() as home:
        results = pathlib.Path(home) / "results"
        results.mkdir()
        clock = pathlib.Path(home) / "beat"
        environment = {"RESULTS": f"file://{results}", "PYTHONDONTWRITEBYTECODE": 1}
        worker = (celery, "-A", "shop", "worker", "--beat", "-s", clock, "--concurrency", 2, "--loglevel", "info")
        with Program("python/celery_app", *worker, **environment) as shop:
            shop.expect("celery@.* ready")
            with Program("python/celery_app", PYTHON, "buy.py", **environment) as buyer:
                buyer.expect(r"^chain: 48\.0$")
                buyer.expect(r"^group: \[2, 15\]$")
                buyer.expect("^chord: 57$")
                buyer.expect("^retry: charged 57 at try 3$")
                buyer.expect("^eta: reminded Ada after [1-9][0-9]* s$")
                buyer.expect("^revoked: Bob is not reminded$")
                buyer.ends()
            ticks = [line for line in shop.seen if "counted the stock" in line]
            while len(ticks) < 3:
                ticks.append(shop.expect("counted the stock"))


def order_by_key(language, command, join):
    """Each account's bookings come in order, never two at a time."""
    with Program(language, *command) as program:
        for account in ["ada", "bob", "cyd"]:
            program.expect(f"^{account}: " + join.join("12345").join(["\\[?", "\\]?$"]))
        program.ends()


def signals(language, *command):
    """The account that failed is named first, and two stand behind its head."""
    with Program(language, *command) as program:
        program.expect("^dead letters at first: 0$")
        program.expect("^ready 3, waiting 1$")
        program.expect("^ada: backoff, 2 behind$")
        program.expect("^bob: ready, 0 behind$")
        program.ends()


def retries(language, *command):
    """One payment succeeds at its third attempt, the other dies after two."""
    with Program(language, *command) as program:
        program.expect("^rent: paid at attempt 3 of 4$")
        program.expect("^bribe: dead after 1 rejected, 2 rejected$")
        program.ends()


def python_retries():
    retries("python", PYTHON, "retries.py")


def node_retries():
    retries("node", "node", "retries.js")


def http_worker(language, *command):
    """Five parcels over HTTP, one of them at its second attempt."""
    with Program(language, *command) as program:
        program.expect("^published: 5$")
        for number in [1, 2, 4, 5]:
            program.expect(f"^done: parcel {number} at attempt 1$")
        program.expect("^done: parcel 3 at attempt 2$")
        program.ends()


def python_http_worker():
    http_worker("python", PYTHON, "http_worker.py")


def node_http_worker():
    http_worker("node", "node", "http_worker.js")


def leases(language, *command):
    """A hung worker's message goes to the next attempt, and its late ack is ignored."""
    with Program(language, *command) as program:
        program.expect("^attempt 1: hangs$")
        program.expect("^attempt 2: lease-ended before$")
        program.expect("^late ack: ignored$")
        program.expect("^done: film$")
        program.ends()


def python_leases():
    leases("python", PYTHON, "leases.py")


def node_leases():
    leases("node", "node", "leases.js")


def delays(language, *command):
    """Two reminders come in the order of their times, the third never."""
    with Program(language, *command) as program:
        program.expect("^cancelled: 1$")
        program.expect("^time to call Cyd$")
        program.expect("^time to call Ada$")
        program.ends()
        assert not any("Bob" in line for line in program.seen), program.seen


def python_delays():
    delays("python", PYTHON, "delays.py")


def node_delays():
    delays("node", "node", "delays.js")


def idempotency(language, *command):
    """Five publishes of three payments are three payments."""
    with Program(language, *command) as program:
        program.expect("^confirmed: 5$")
        for payment in ("1001", "1002", "1003"):
            program.expect(f"^paid: {payment}$")
        program.ends()
        paid = [line for line in program.seen if line.startswith("paid")]
        assert len(paid) == 3, program.seen


def python_idempotency():
    idempotency("python", PYTHON, "idempotency.py")


def node_idempotency():
    idempotency("node", "node", "idempotency.js")


def backpressure(language, *command):
    """The publisher is stopped, the queue stays near its limit, and all 2,000 arrive."""
    with Program(language, *command) as program:
        program.expect("^stopped: queue 'thumbnails' in vhost '/' is full$")
        longest = program.expect(r"^longest queue: (\d+)$")
        program.expect("^worked on: 2000$")
        program.ends()
        assert 50 < int(longest.group(1)) < 400, program.seen


def python_backpressure():
    backpressure("python", PYTHON, "backpressure.py")


def node_backpressure():
    backpressure("node", "node", "backpressure.js")


def redrive(language, *command):
    """Of four dead invoices two go back and are done, two are purged."""
    with Program(language, *command) as program:
        program.expect("^dead: invoice-1 invoice-2 invoice-3 invoice-4$")
        program.expect("^to redrive: 2$")
        program.expect("^redrive done: 2 moved$")
        program.expect("^done: invoice-1$")
        program.expect("^done: invoice-3$")
        program.expect("^purged: 2$")
        program.ends()


def python_redrive():
    redrive("python", PYTHON, "redrive.py")


def node_redrive():
    redrive("node", "node", "redrive.js")


def python_order_by_key():
    order_by_key("python", (PYTHON, "order_by_key.py"), ", ")


def node_order_by_key():
    order_by_key("node", ("node", "order_by_key.js"), " ")


def python_signals():
    signals("python", PYTHON, "signals.py")


def node_signals():
    signals("node", "node", "signals.js")


def python_call():
    """The call gets its answer at once, or as a job when it takes longer than it waits."""
    with Program("python", PYTHON, "worker_fib.py") as worker:
        worker.expect("^waiting for calls$")
        with Program("python", PYTHON, "call.py", "30") as call:
            call.expect(r'^answer at once: {"fib": 832040}$')
            call.ends()
    # Nobody works now: the call is accepted, and answered when a worker comes.
    with Program("python", PYTHON, "call.py", "10") as call:
        call.expect("^accepted: http.*/v1/jobs/")
        call.expect("^state: (scheduled|queued|running|retrying)$")
        with Program("python", PYTHON, "worker_fib.py"):
            call.expect("^state: succeeded$")
            call.expect(r'^answer: {"fib": 55}$')
        call.ends()


def schedule():
    """The schedule of the example ticks, once its cron says every second."""
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as held:
            ports.append(held.getsockname()[1])
    text = (EXAMPLES / "schedule" / "leveret.toml").read_text()
    often, count = re.subn(r'(?m)^cron = ".*?"', 'cron = "* * * * * *"', text)
    assert count == 1
    with tempfile.TemporaryDirectory() as home:
        config = pathlib.Path(home) / "leveret.toml"
        config.write_text(often)
        # serve is a long command line, but it is all there is to a server of one's own.
        server = Program(
            ".", os.path.abspath(os.environ["LEVERET"]), "serve", "--config", config, "--data-dir", home,
            "--amqp-listen", f"127.0.0.1:{ports[0]}", "--http-listen", f"127.0.0.1:{ports[1]}",
        )
        with server:
            deadline = time.monotonic() + PATIENCE
            while socket.socket().connect_ex(("127.0.0.1", ports[0])) != 0:
                assert time.monotonic() < deadline, "the server does not listen"
                time.sleep(0.1)
            url = f"amqp://guest:guest@127.0.0.1:{ports[0]}/"
            with Program("python", PYTHON, "consumer_reports.py", AMQP_URL=url) as consumer:
                ticks = [consumer.expect(r"^tick of report due at (\S+): {}$")[1] for _ in range(3)]
    assert len(set(ticks)) == 3, ticks
    assert sorted(ticks) == ticks, ticks


def node_tasks():
    publish_then_consume("node", ("node", "publish.js"), ("node", "worker.js"), "^confirmed: 10 tasks$", 1, "^done: task {}$")


def go_events():
    publish_then_consume("go", ("go", "run", "./publish"), ("go", "run", "./consume"), "^confirmed: event {}$", 10, "^got: event {}$")


def java_mails():
    maven = ("mvn", "-q", "-B", "-Dstyle.color=never", "exec:java")
    publish_then_consume(
        "java", (*maven, "-Dexec.mainClass=Publish"), (*maven, "-Dexec.mainClass=Consume"),
        "confirmed: 10 mails$", 1, "^got: mail {}$",
    )


def rust_pictures():
    cargo = ("cargo", "run", "--quiet", "--locked", "--bin")
    publish_then_consume("rust", (*cargo, "publish"), (*cargo, "consume"), "^confirmed: picture {}$", 10, "^got: picture {}$")


def replay(language, *command):
    """What was acked is kept, and a part of it comes again."""
    with Program(language, *command) as program:
        for number in range(3):
            program.expect(f"^sale {number}$")
        program.expect("^kept: 3$")
        for number in (1, 2):
            program.expect(f"^again: sale {number}, which was at {number}$")
        program.ends()


def python_replay():
    replay("python", PYTHON, "replay.py")


def node_replay():
    replay("node", "node", "replay.js")


def priorities(language, *command):
    """Urgent letters are sent first, each kind in its order."""
    with Program(language, *command) as program:
        sent = [program.expect("^sent: (.*)$")[1] for _ in range(6)]
        program.ends()
    assert sent == ["alarm 1", "alarm 2", "invoice 1", "invoice 2", "newsletter 1", "newsletter 2"], sent


def python_priorities():
    priorities("python", PYTHON, "priorities.py")


def node_priorities():
    priorities("node", "node", "priorities.js")


def priority_ageing(language, *command):
    """What has waited for long enough is passed by nothing that comes later."""
    with Program(language, *command) as program:
        sent = [program.expect("^sent: (.*)$")[1] for _ in range(4)]
        program.ends()
    assert sent == ["early alarm", "newsletter", "late alarm", "late invoice"], sent


def python_priority_ageing():
    priority_ageing("python", PYTHON, "priority_ageing.py")


def node_priority_ageing():
    priority_ageing("node", "node", "priority_ageing.js")


def poison_pills(language, *command):
    """Five workers die of one message, which is put aside; the sixth does the others."""
    with Program(language, *command) as program:
        for number in (1, 2):
            program.expect(f"^done: photo {number}$")
        program.expect("^workers killed: 5$")
        program.expect("^put aside: bomb after 5 times consumer-lost$")
        program.ends()
        assert not any("done: bomb" in line for line in program.seen), program.seen


def python_poison_pills():
    poison_pills("python", PYTHON, "poison_pills.py")


def node_poison_pills():
    poison_pills("node", "node", "poison_pills.js")


def operate(language, *command):
    """A paused queue is read by pages, cleaned up and moved from, and goes on."""
    with Program(language, *command) as program:
        program.expect("^paused: [tT]rue$")
        program.expect("^seen: vip-1 plain-2 test-3 plain-4 vip-5$")
        program.expect("^purged: 1$")
        program.expect("^moved: 2$")
        program.expect("^paused: [fF]alse$")
        for line in ("tickets: plain-2", "tickets: plain-4", "tickets.vip: vip-1", "tickets.vip: vip-5"):
            program.expect(f"^from {re.escape(line)}$")
        program.ends()


def python_operate():
    operate("python", PYTHON, "operate.py")


def node_operate():
    operate("node", "node", "operate.js")


def checks(language):
    match language:
        case "python":
            yield from (python_confirms, python_worker, python_reports, python_celery, python_priorities)
            if os.environ.get("HTTP_URL"):
                yield python_call
            else:
                print("call.py is left out, for HTTP_URL is not set")
            if os.environ.get("LEVERET"):
                yield from (schedule, python_order_by_key, python_redrive, python_retries, python_delays, python_idempotency)
                yield from (python_leases, python_http_worker, python_replay, python_operate, python_backpressure)
                yield from (python_signals, python_priority_ageing, python_poison_pills)
            else:
                print("what RabbitMQ cannot do is left out, for LEVERET is not set")
        case "node":
            build("node", "npm", "ci", "--silent", "--no-audit", "--no-fund")
            yield from (node_tasks, node_priorities)
            if os.environ.get("LEVERET"):
                yield from (node_order_by_key, node_redrive, node_retries, node_delays, node_idempotency)
                yield from (node_leases, node_http_worker, node_replay, node_operate, node_backpressure)
                yield from (node_signals, node_priority_ageing, node_poison_pills)
        case "go":
            build("go", "go", "build", "./...")
            yield go_events
        case "java":
            build("java", "mvn", "-q", "-B", "-Dstyle.color=never", "compile")
            yield java_mails
        case "rust":
            build("rust", "cargo", "build", "--quiet", "--locked")
            yield rust_pictures
        case _:
            sys.exit(f"unknown language {language!r}")


def clean():
    script = (
        "import os, sys, pika; n = pika.BlockingConnection(pika.URLParameters(os.environ['AMQP_URL']))\n"
        "c = n.channel(); [c.queue_delete(q) for q in sys.argv[1:]]; n.close()"
    )
    subprocess.run([PYTHON, "-c", script, *QUEUES], check=True, timeout=PATIENCE)


def main():
    if "AMQP_URL" not in os.environ:
        sys.exit("examples.py: AMQP_URL is not set")
    passed = failed = 0
    clean()
    for language in sys.argv[1:] or ["python", "node", "go", "java", "rust"]:
        for check in checks(language):
            started = time.monotonic()
            try:
                check()
                passed += 1
                print(f"ok {check.__name__} ({time.monotonic() - started:.1f} s)", flush=True)
            except (AssertionError, subprocess.SubprocessError) as error:
                failed += 1
                print(f"FAILED {check.__name__}: {error}", flush=True)
    clean()
    print(f"examples: {passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()
