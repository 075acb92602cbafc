"""A worker whose payments fail twice and then succeed, and one payment that never will."""
import os, pika

url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
rules = {"x-retry-limit": 3, "x-retry-delay": 50, "x-retry-jitter": 0}
channel.queue_declare("payments", durable=True, arguments=rules)
channel.confirm_delivery()
for name, headers in [("rent", {}), ("bribe", {"x-retry-limit": 1})]:
    channel.basic_publish("", "payments", name, pika.BasicProperties(delivery_mode=2, headers=headers))

left = {"rent", "bribe"}

def pay(channel, method, properties, body):
    name, headers = body.decode(), properties.headers or {}
    attempt = headers.get("x-attempt", 1)
    if name == "rent" and attempt == 3:
        channel.basic_ack(method.delivery_tag)
        print(f"{name}: paid at attempt 3 of {headers['x-max-attempts']}", flush=True)
        return done(name)
    channel.basic_reject(method.delivery_tag, requeue=False)
    if name == "bribe" and attempt == 2:
        done(name)

def done(name):
    left.discard(name)
    if not left:
        channel.stop_consuming()

channel.basic_consume("payments", pay)
channel.start_consuming()
for method, properties, body in channel.consume("payments.dlq", inactivity_timeout=5):
    tries = [f"{entry['attempt']} {entry['reason']}" for entry in properties.headers["x-attempts"]]
    print(f"{body.decode()}: dead after {', '.join(tries)}", flush=True)
    channel.basic_ack(method.delivery_tag)
    break
channel.cancel()
channel.queue_delete("payments")
channel.queue_delete("payments.dlq")
connection.close()
