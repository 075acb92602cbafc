"""A worker hangs: its lease ends, the message goes to the next attempt, and what it says later is ignored."""
import os, pika

url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
connection = pika.BlockingConnection(pika.URLParameters(url))
hung, channel = connection.channel(), connection.channel()
channel.queue_declare("renders", durable=True, arguments={"x-lease-timeout": 500})
channel.basic_publish("", "renders", "film", pika.BasicProperties(delivery_mode=2))

late = None
while late is None:
    late, _, _ = hung.basic_get("renders")
print("attempt 1: hangs", flush=True)
for method, properties, body in channel.consume("renders", inactivity_timeout=20):
    print(f"attempt {properties.headers['x-attempt']}: {properties.headers['x-last-error']} before", flush=True)
    hung.basic_ack(late.delivery_tag)  # Too late: it settles nothing, and is no error.
    hung.queue_declare("renders", passive=True)
    print("late ack: ignored", flush=True)
    channel.basic_ack(method.delivery_tag)
    print("done:", body.decode(), flush=True)
    break
channel.cancel()
channel.queue_delete("renders")
connection.close()
