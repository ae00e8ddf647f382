"""`manage.py orders`: list the orders with their runs."""

from typing import Any

from django.core.management.base import BaseCommand

from runstate.integrations.django.models import RunModel, StepModel
from shop.models import Order


class Command(BaseCommand):
    """List the orders."""

    def handle(self, *args: Any, **options: Any) -> None:
        """List them: the run and its step are read by models, like the order."""
        for order in Order.objects.order_by("pk"):
            run = RunModel.objects.get(id=order.run_id)
            step = StepModel.objects.filter(run_id=run.id).first()
            self.stdout.write(f"{order.pk}: {order.text}: {run.status}, {step.result if step else 'not begun'}")
