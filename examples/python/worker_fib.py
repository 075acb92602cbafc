"""A worker for POST /v1/calls/queue/fib: answers {"n": 30} with {"fib": 832040}."""
import json, os, pika

def fib(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a

def work(channel, method, properties, body):
    answer = json.dumps({"fib": fib(json.loads(body)["n"])})
    reply = pika.BasicProperties(correlation_id=properties.correlation_id, content_type="application/json")
    channel.basic_publish("", properties.reply_to, answer, reply)
    channel.basic_ack(method.delivery_tag)

url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
channel.queue_declare("fib", durable=True)
channel.basic_qos(prefetch_count=1)
channel.basic_consume("fib", work)
print("waiting for calls", flush=True)
channel.start_consuming()
