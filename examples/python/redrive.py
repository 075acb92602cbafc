"""Orders that failed because of a bug go back to their queue once it is mended: look, count, redrive."""
import base64, json, os, time, pika
from urllib.parse import urljoin
from urllib.request import Request, urlopen

server = os.environ.get("HTTP_URL", "http://localhost:15672")
login = {"Authorization": "Basic " + base64.b64encode(b"guest:guest").decode()}

def ask(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = login | {"Content-Type": "application/json"}
    with urlopen(Request(urljoin(server, path), data, headers, method=method)) as response:
        return json.load(response)

url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.confirm_delivery()
channel.queue_declare("invoices", durable=True, arguments={"x-retry-limit": 0})
for number in range(1, 5):
    country = "se" if number % 2 else "no"
    properties = pika.BasicProperties(delivery_mode=2, message_id=f"invoice-{number}", headers={"country": country})
    channel.basic_publish("", "invoices", str(number), properties)

for _ in range(4):  # A worker with a bug: it fails whatever it gets.
    method, _, _ = channel.basic_get("invoices")
    channel.basic_reject(method.delivery_tag, requeue=False)

while len(dead := ask("GET", "/v1/queues/invoices/dead")["messages"]) < 4:
    time.sleep(0.05)
print("dead:", " ".join(message["properties"]["message_id"] for message in dead), flush=True)
swedish = {"filter": {"headers": {"country": "se"}}}
print("to redrive:", ask("POST", "/v1/queues/invoices/dead:redrive", swedish | {"dry_run": True})["count"])
redrive = ask("POST", "/v1/queues/invoices/dead:redrive", swedish | {"rate": 100})
while redrive["state"] == "running":
    time.sleep(0.05)
    redrive = ask("GET", f"/v1/redrives/{redrive['id']}")
print(f"redrive {redrive['state']}: {redrive['moved']} moved")
for _ in range(2):  # The bug is mended.
    method, properties, body = channel.basic_get("invoices")
    channel.basic_ack(method.delivery_tag)
    print("done:", properties.message_id)
print("purged:", ask("POST", "/v1/queues/invoices/dead:purge", {})["count"], flush=True)
channel.queue_delete("invoices")
channel.queue_delete("invoices.dlq")
connection.close()
