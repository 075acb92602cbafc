"""A worker acks what it should not have: the queue keeps it, and publishes it again. Needs leveret's HTTP API."""
import base64, json, os, time, urllib.request, pika

amqp_url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
http_url = os.environ.get("HTTP_URL", "http://localhost:15672")
connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
channel = connection.channel()
channel.queue_declare("sales", durable=True, arguments={"x-retain": 60_000})
for number in range(3):
    channel.basic_publish("", "sales", f"sale {number}", pika.BasicProperties(headers={"number": number}))

def work(count):
    for method, properties, body in channel.consume("sales", inactivity_timeout=20):
        seq = (properties.headers or {}).get("x-replayed-seq")
        print(body.decode() if seq is None else f"again: {body.decode()}, which was at {seq}", flush=True)
        channel.basic_ack(method.delivery_tag)
        count -= 1
        if count == 0:
            break
    channel.cancel()

def ask(path, body=None):
    request = urllib.request.Request(http_url + path, body and json.dumps(body).encode())
    request.add_header("content-type", "application/json")
    request.add_header("authorization", "Basic " + base64.b64encode(b"guest:guest").decode())
    return json.load(urllib.request.urlopen(request))

work(3)
while len(ask("/v1/queues/sales/retained")["messages"]) < 3:
    time.sleep(0.05)  # The acks are on their way.
print("kept: 3", flush=True)
ask("/v1/queues/sales/replay", {"from_seq": 1})
work(2)
channel.queue_delete("sales")
connection.close()
