"""A fast publisher and a slow consumer: the queue stays short, and nothing is lost."""
import os, threading, time, pika

url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
COUNT, LIMIT = 2_000, 100
arguments = {"x-max-length": LIMIT, "x-overflow": "block"}
may_publish, stops = threading.Event(), []
may_publish.set()


def blocked(_connection, method):
    stops.append(method.method.reason)
    may_publish.clear()


def publish():
    connection = pika.BlockingConnection(pika.URLParameters(url))
    connection.add_on_connection_blocked_callback(blocked)
    connection.add_on_connection_unblocked_callback(lambda *_: may_publish.set())
    channel = connection.channel()
    for number in range(COUNT):
        channel.basic_publish("", "thumbnails", f"{number}.jpg")
        connection.process_data_events(0)  # hears of a full queue
        while not may_publish.is_set():
            connection.process_data_events(0.1)
    connection.close()


connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.queue_declare("thumbnails", durable=True, arguments=arguments)
publisher = threading.Thread(target=publish)
publisher.start()
channel.basic_qos(prefetch_count=10)
worked, longest = 0, 0
for method, _, body in channel.consume("thumbnails", inactivity_timeout=5):
    if method is None:
        break
    time.sleep(0.0005)
    channel.basic_ack(method.delivery_tag)
    worked += 1
    if worked % 50 == 0:
        queue = channel.queue_declare("thumbnails", passive=True)
        longest = max(longest, queue.method.message_count)
    if worked == COUNT:
        break
publisher.join()
print("stopped:", stops[0] if stops else "never", flush=True)
print("longest queue:", longest, flush=True)
print("worked on:", worked, flush=True)
channel.queue_delete("thumbnails")
connection.close()
