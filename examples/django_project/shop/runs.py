"""The store of the shop, its handler, and what creates an order."""

from django.db import connection, transaction

from runstate.store import Store, open_store
from runstate.worker import Context, Outcome
from shop.models import Order


def shop_store() -> Store:
    """Open the store in the database of the shop, whose migrations make its tables."""
    return open_store(f"sqlite:///{connection.settings_dict['NAME']}", migrate=False)


def prepare(ctx: Context) -> Outcome:
    """Prepare an order. This is where your model is called."""
    ctx.step("prepare", lambda: f"{ctx.run.instructions}, wrapped")
    return ctx.complete()


def place_order(store: Store, text: str) -> Order:
    """Store an order and its run, both or neither."""
    with transaction.atomic(), store.within(connection) as runs:
        run = runs.create(thread_id="shop", assistant_id="asst_1", model="gpt-4o", instructions=text)
        if not text:
            raise ValueError("an order without a text")
        return Order.objects.create(text=text, run_id=run.id)
