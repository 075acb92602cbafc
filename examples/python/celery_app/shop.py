"""A Celery application as one writes it for RabbitMQ: tasks, retries, and a beat schedule.

    celery -A shop worker --beat --loglevel info

from this folder runs the worker, with the schedule's clock inside. AMQP_URL names the broker.
Results are kept in files, so that a chord needs no second service; on more than one machine
you would name Redis or a database in RESULTS instead.
"""

import os
import pathlib
import tempfile

from celery import Celery
from celery.utils.log import get_task_logger

folder = pathlib.Path(tempfile.gettempdir()) / "celery-shop-results"
folder.mkdir(exist_ok=True)

app = Celery(
    "shop",
    broker=os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/"),
    backend=os.environ.get("RESULTS", f"file://{folder}"),
)
app.conf.update(
    task_default_queue="shop",
    # A task is acknowledged when it is done: a worker that dies gives it back.
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    # Publishing waits for the broker's confirm.
    broker_transport_options={"confirm_publish": True},
    broker_connection_retry_on_startup=True,
    beat_schedule={"stocktaking": {"task": "shop.count", "schedule": 1.0}},
)
log = get_task_logger(__name__)
PRICES = {"apple": 2, "book": 15, "lamp": 40}


@app.task
def price(item):
    return PRICES[item]


@app.task
def total(prices):
    return sum(prices)


@app.task
def with_tax(amount):
    return round(amount * 1.2, 2)


@app.task(bind=True, max_retries=5)
def charge(self, amount):
    """The bank answers at the third try only."""
    if self.request.retries < 2:
        raise self.retry(countdown=0.2)
    return f"charged {amount} at try {self.request.retries + 1}"


@app.task
def remind(customer):
    return f"reminded {customer}"


@app.task
def count():
    log.info("counted the stock")
