"""`manage.py order TEXT`: place an order."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from shop.runs import place_order, shop_store


class Command(BaseCommand):
    """Place an order."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the text."""
        parser.add_argument("text")

    def handle(self, *args: Any, **options: Any) -> None:
        """Place it."""
        with shop_store() as store:
            self.stdout.write(f"order {place_order(store, options['text']).pk}")
