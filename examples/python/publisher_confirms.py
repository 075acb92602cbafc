"""Publishes ten messages; each returns from basic_publish only when it is safely on disk."""
import os

import pika

url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.queue_declare("orders", durable=True)
channel.confirm_delivery()
persistent = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
for number in range(10):
    try:
        channel.basic_publish("", "orders", f"order {number}", persistent, mandatory=True)
        print(f"confirmed: order {number}")
    except pika.exceptions.UnroutableError:
        print(f"returned: order {number} reaches no queue")
connection.close()
