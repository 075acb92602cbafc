"""Buys something with the tasks of shop.py, for which a worker must run.

Shows a chain, a group, a chord, a task that is retried, one with an ETA, and one that is
revoked before its time.
"""

import datetime
import time

from celery import chain, chord, group
from celery.exceptions import TaskRevokedError

from shop import charge, price, remind, total, with_tax

PATIENCE = 30

print("chain:", chain(price.s("lamp"), with_tax.s())().get(timeout=PATIENCE), flush=True)
print("group:", group(price.s(item) for item in ("apple", "book"))().get(timeout=PATIENCE), flush=True)
basket = chord([price.s("apple"), price.s("book"), price.s("lamp")], total.s())
print("chord:", basket().get(timeout=PATIENCE), flush=True)
print("retry:", charge.delay(57).get(timeout=PATIENCE), flush=True)

asked = time.monotonic()
soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=2)
reminder = remind.apply_async(["Ada"], eta=soon)
print("eta:", reminder.get(timeout=PATIENCE), "after", round(time.monotonic() - asked), "s", flush=True)

unwanted = remind.apply_async(["Bob"], countdown=3)
unwanted.revoke()
try:
    print("not revoked:", unwanted.get(timeout=PATIENCE))
except TaskRevokedError:
    print("revoked: Bob is not reminded", flush=True)
