"""`manage.py work`: prepare orders until SIGTERM."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from runstate.worker import RetryPolicy, Worker
from shop.runs import prepare, shop_store


class Command(BaseCommand):
    """Prepare orders."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the option."""
        parser.add_argument("--until-idle", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        """Work."""
        with shop_store() as store:
            Worker(store, prepare, retry=RetryPolicy()).run(until_idle=options["until_idle"])
