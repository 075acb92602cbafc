"""Three reminders for later; one is cancelled before its time."""
import base64, json, os, time, pika
from urllib.parse import urljoin
from urllib.request import Request, urlopen

url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
channel.confirm_delivery()
channel.queue_declare("reminders", durable=True, arguments={"x-retry-limit": 5})
soon = int(time.time() * 1000) + 400  # milliseconds since 1970
for name, headers in [
    ("call Ada", {"x-delay": 800}),
    ("call Bob", {"x-delay": 600}),
    ("call Cyd", {"x-deliver-at": soon}),
]:
    properties = pika.BasicProperties(delivery_mode=2, message_id=name, headers=headers)
    channel.basic_publish("", "reminders", name, properties)

cancel = {"state": "waiting", "filter": {"ids": ["call Bob"]}}
server = os.environ.get("HTTP_URL", "http://localhost:15672")
login = {"Authorization": "Basic " + base64.b64encode(b"guest:guest").decode(), "Content-Type": "application/json"}
path = urljoin(server, "/v1/queues/reminders/messages:purge")
with urlopen(Request(path, json.dumps(cancel).encode(), login)) as response:
    print("cancelled:", json.load(response)["count"], flush=True)

for method, properties, body in channel.consume("reminders", auto_ack=True, inactivity_timeout=2):
    if method is None:
        break
    print("time to", body.decode(), flush=True)
channel.queue_delete("reminders")
channel.connection.close()
