"""A worker without AMQP: publish, receive with a long poll, and settle over plain HTTP."""
import base64, json, os, pika
from urllib.parse import urljoin
from urllib.request import Request, urlopen

server = os.environ.get("HTTP_URL", "http://localhost:15672")
login = {"Authorization": "Basic " + base64.b64encode(b"guest:guest").decode()}

def post(path, body):
    headers = login | {"Content-Type": "application/json"}
    with urlopen(Request(urljoin(server, path), json.dumps(body).encode(), headers)) as response:
        return json.loads(response.read() or b"null")

# Queues are declared once, by whoever deploys the workers.
url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
connection = pika.BlockingConnection(pika.URLParameters(url))
connection.channel().queue_declare("parcels", durable=True, arguments={"x-retry-delay": 50})

parcels = [{"body": f"parcel {number}", "properties": {"message_id": str(number)}} for number in range(1, 6)]
published = post("/v1/queues/parcels/messages", {"messages": parcels})
print("published:", published["accepted"], flush=True)

left = len(parcels)
while left:
    batch = post("/v1/queues/parcels/messages:receive", {"max": 10, "wait_ms": 20_000, "lease_ms": 30_000})
    for message in batch["messages"]:
        lease = f"/v1/queues/parcels/leases/{message['lease']}"
        if message["body"] == "parcel 3" and message["attempt"] == 1:
            post(f"{lease}/fail", {"reason": "no-such-street"})  # It is tried again after a while.
            continue
        post(f"{lease}/ack", {})
        print(f"done: {message['body']} at attempt {message['attempt']}", flush=True)
        left -= 1
connection.channel().queue_delete("parcels")
connection.close()
