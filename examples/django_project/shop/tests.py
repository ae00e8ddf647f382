"""The transaction and the handler."""

from django.test import TransactionTestCase

from runstate.integrations.django.models import RunModel
from runstate.testing import handle
from runstate.worker import Worker
from shop.models import Order
from shop.runs import place_order, prepare, shop_store


class OrderTest(TransactionTestCase):
    """Orders and their runs."""

    def test_an_order_is_prepared(self) -> None:
        """Its run is completed by a worker."""
        with shop_store() as store:
            order = place_order(store, "a red bicycle")
            Worker(store, prepare).run(until_idle=True)
        self.assertEqual("completed", RunModel.objects.get(id=order.run_id).status)

    def test_an_order_that_fails_leaves_no_run(self) -> None:
        """Both are rolled back."""
        before = RunModel.objects.count()
        with shop_store() as store, self.assertRaises(ValueError):
            place_order(store, "")
        self.assertEqual((0, before), (Order.objects.count(), RunModel.objects.count()))

    def test_the_handler_keeps_a_step(self) -> None:
        """By itself, without a database of the shop."""
        handled = handle(prepare, instructions="a red bicycle")
        self.assertEqual(["a red bicycle, wrapped"], [step.result for step in handled.steps])
