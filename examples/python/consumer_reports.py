"""Receives the ticks of the schedule "report" from the queue "reports"."""
import os

import pika

def tick(channel, method, properties, body):
    headers = properties.headers or {}
    print(f"tick of {headers.get('x-schedule')} due at {headers.get('x-scheduled-time')}: {body.decode()}", flush=True)
    channel.basic_ack(method.delivery_tag)

url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
channel.queue_declare("reports", durable=True)
channel.basic_qos(prefetch_count=1)
channel.basic_consume("reports", tick)
print("waiting for ticks", flush=True)
channel.start_consuming()
