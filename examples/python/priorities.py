"""Six letters in a queue with priorities: the urgent ones leave first, each kind in its order."""
import os, pika

url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.confirm_delivery()
channel.queue_declare("letters", durable=True, arguments={"x-max-priority": 9})
for name, priority in [
    ("newsletter 1", None),  # no priority is 0
    ("invoice 1", 5),
    ("newsletter 2", None),
    ("alarm 1", 9),
    ("invoice 2", 5),
    ("alarm 2", 200),  # above the queue's highest: that one
]:
    properties = pika.BasicProperties(delivery_mode=2, priority=priority)
    channel.basic_publish("", "letters", name, properties)

# With a prefetch of many, a worker would hold newsletters when the next alarm comes.
channel.basic_qos(prefetch_count=1)
for method, properties, body in channel.consume("letters", inactivity_timeout=1):
    if method is None:
        break
    print("sent:", body.decode(), flush=True)
    channel.basic_ack(method.delivery_tag)
channel.queue_delete("letters")
connection.close()
