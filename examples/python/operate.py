"""A queue is stopped, read page by page, cleaned up and partly moved elsewhere; then it goes on."""
import base64, json, os, time, pika
from urllib.parse import urlencode, urljoin
from urllib.request import Request, urlopen

server = os.environ.get("HTTP_URL", "http://localhost:15672")
login = {"Authorization": "Basic " + base64.b64encode(b"guest:guest").decode()}

def ask(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = login | {"Content-Type": "application/json"}
    with urlopen(Request(urljoin(server, path), data, headers, method=method)) as response:
        return json.load(response)

def everything(path, name):
    """All entries of a list, however many pages it has."""
    cursor = {}
    while cursor is not None:
        page = ask("GET", f"{path}?{urlencode({'limit': 2} | cursor)}")
        yield from page[name]
        cursor = page["next_cursor"] and {"cursor": page["next_cursor"]}

url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.confirm_delivery()
channel.queue_declare("tickets", durable=True)
channel.queue_declare("tickets.vip", durable=True)

print("paused:", ask("POST", "/v1/queues/tickets/pause")["paused"])
for number, kind in enumerate(["vip", "plain", "test", "plain", "vip"], 1):
    properties = pika.BasicProperties(delivery_mode=2, message_id=f"{kind}-{number}", headers={"kind": kind})
    channel.basic_publish("", "tickets", str(number), properties)  # publishers notice nothing

tickets = everything("/v1/queues/tickets/messages", "messages")
print("seen:", " ".join(ticket["properties"]["message_id"] for ticket in tickets), flush=True)
purged = ask("POST", "/v1/queues/tickets/messages:purge", {"filter": {"headers": {"kind": "test"}}})
print("purged:", purged["count"])
vip = {"filter": {"headers": {"kind": "vip"}}, "to": "tickets.vip"}
move = ask("POST", "/v1/queues/tickets/messages:move", vip)
while move["state"] == "running":
    time.sleep(0.05)
    move = ask("GET", f"/v1/redrives/{move['id']}")
print("moved:", move["moved"])
print("paused:", ask("POST", "/v1/queues/tickets/resume")["paused"], flush=True)

for queue in ["tickets", "tickets.vip"]:
    for method, properties, body in channel.consume(queue, auto_ack=True, inactivity_timeout=1):
        if method is None:
            break
        print(f"from {queue}:", properties.message_id, flush=True)
    channel.cancel()
    channel.queue_delete(queue)
connection.close()
