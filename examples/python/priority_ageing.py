"""A newsletter among alarms: it gains a priority for each 50 ms that it waits, so that later alarms do not pass it."""
import os, time, pika

url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.confirm_delivery()
ageing = {"x-max-priority": 9, "x-priority-ageing": 50}
channel.queue_declare("notices", durable=True, arguments=ageing)

def publish(name, priority):
    properties = pika.BasicProperties(delivery_mode=2, priority=priority)
    channel.basic_publish("", "notices", name, properties)

publish("newsletter", 0)
publish("early alarm", 9)
time.sleep(1)  # Both gain twenty levels, more than lie between them and any newcomer.
publish("late alarm", 9)
publish("late invoice", 5)

channel.basic_qos(prefetch_count=1)
for method, properties, body in channel.consume("notices", inactivity_timeout=1):
    if method is None:
        break
    print("sent:", body.decode(), flush=True)
    channel.basic_ack(method.delivery_tag)
channel.queue_delete("notices")
connection.close()
