"""Two workers share a queue; each account's bookings are worked on one at a time, in order."""
import collections, os, pika

ACCOUNTS, BOOKINGS = ["ada", "bob", "cyd"], 5
url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
connection = pika.BlockingConnection(pika.URLParameters(url))
workers = [connection.channel(), connection.channel()]
rules = {"x-partition-header": "account"}
workers[0].queue_declare("bookings", durable=True, arguments=rules)
for number in range(1, BOOKINGS + 1):
    for account in ACCOUNTS:
        properties = pika.BasicProperties(delivery_mode=2, headers={"account": account})
        workers[0].basic_publish("", "bookings", str(number), properties)

done, busy = collections.defaultdict(list), set()

def begin(channel, method, properties, body):
    account = properties.headers["account"]
    assert account not in busy, "two bookings of one account at a time"
    busy.add(account)
    # The work takes a moment; the other worker goes on with other accounts meanwhile.
    connection.call_later(0.02, lambda: end(channel, method.delivery_tag, account, int(body)))

def end(channel, tag, account, number):
    busy.remove(account)
    done[account].append(number)
    channel.basic_ack(tag)
    if sum(map(len, done.values())) == len(ACCOUNTS) * BOOKINGS:
        for worker in workers:
            worker.stop_consuming()

for worker in workers:
    worker.basic_qos(prefetch_count=10)
    worker.basic_consume("bookings", begin)
workers[0].start_consuming()
for account in ACCOUNTS:
    print(f"{account}: {done[account]}", flush=True)
workers[0].queue_delete("bookings")
connection.close()
