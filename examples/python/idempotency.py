"""Three payments, two of them published twice: each is worked on once."""
import os, pika

url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
channel.confirm_delivery()
arguments = {"x-deduplication-window": 24 * 60 * 60 * 1000}  # a day, in milliseconds
channel.queue_declare("charges", durable=True, arguments=arguments)
confirmed = 0
for payment in ["1001", "1002", "1001", "1003", "1002"]:
    properties = pika.BasicProperties(delivery_mode=2, message_id=payment)
    channel.basic_publish("", "charges", payment, properties)
    confirmed += 1  # basic_publish raises what is refused
print("confirmed:", confirmed, flush=True)

for method, properties, body in channel.consume("charges", inactivity_timeout=1):
    if method is None:
        break
    print("paid:", body.decode(), flush=True)
    channel.basic_ack(method.delivery_tag)
channel.queue_delete("charges")
channel.connection.close()
