"""One account's transfer fails; the queue's signals name the account that stands, and who waits behind it."""
import base64, json, os, time, pika
from urllib.parse import urljoin
from urllib.request import Request, urlopen

server = os.environ.get("HTTP_URL", "http://localhost:15672")
login = {"Authorization": "Basic " + base64.b64encode(b"guest:guest").decode()}

def signals(queue, keys=10):
    with urlopen(Request(urljoin(server, f"/v1/queues/{queue}/signals?keys={keys}"), headers=login)) as response:
        return json.load(response)

url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.confirm_delivery()
rules = {"x-partition-header": "account", "x-retry-delay": 60_000}
channel.queue_declare("transfers", durable=True, arguments=rules)
print("dead letters at first:", signals("transfers")["dead_letters"], flush=True)
for account in ["ada", "ada", "ada", "bob"]:
    channel.basic_publish("", "transfers", b"10", pika.BasicProperties(delivery_mode=2, headers={"account": account}))

method, _, _ = channel.basic_get("transfers")  # The bank of ada does not answer: next try in a minute.
channel.basic_reject(method.delivery_tag, requeue=False)
while (now := signals("transfers"))["waiting"] == 0:
    time.sleep(0.05)
print(f"ready {now['ready']}, waiting {now['waiting']}")
for key in now["keys"]:  # Oldest head first.
    print(f"{key['key']}: {key['state']}, {key['behind']} behind")
assert now["keys"][0]["head_age_ms"] >= now["oldest_ready_ms"], "the head is older than who waits"
channel.queue_delete("transfers")
connection.close()
