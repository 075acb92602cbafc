"""A picture that kills every worker that opens it: after five of them it is put aside, and the others are done."""
import os, signal, subprocess, sys, pika

url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()

if sys.argv[1:] == ["worker"]:
    channel.basic_qos(prefetch_count=1)
    for method, properties, body in channel.consume("uploads", inactivity_timeout=5):
        if method is None:
            break
        if body == b"bomb":
            os.kill(os.getpid(), signal.SIGKILL)  # As a broken decoder would, or the lack of memory.
        print("done:", body.decode(), flush=True)
        channel.basic_ack(method.delivery_tag)
        if body == b"photo 2":
            break
    connection.close()
    sys.exit()

channel.queue_declare("uploads", durable=True, arguments={"x-retry-limit": 4})
channel.confirm_delivery()
for name in ["bomb", "photo 1", "photo 2"]:
    channel.basic_publish("", "uploads", name, pika.BasicProperties(delivery_mode=2))

# Whatever starts workers starts them again: systemd, Kubernetes, or this loop.
killed = 0
while subprocess.run([sys.executable, __file__, "worker"]).returncode != 0:
    killed += 1
print("workers killed:", killed, flush=True)

for method, properties, body in channel.consume("uploads.dlq", inactivity_timeout=5):
    reasons = [entry["reason"] for entry in properties.headers["x-attempts"]]
    print(f"put aside: {body.decode()} after {len(reasons)} times {reasons[-1]}", flush=True)
    channel.basic_ack(method.delivery_tag)
    break
channel.cancel()
channel.queue_delete("uploads")
channel.queue_delete("uploads.dlq")
connection.close()
