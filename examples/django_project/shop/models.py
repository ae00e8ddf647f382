"""The orders of the shop."""

from django.db import models


class Order(models.Model):
    """An order, and the run that prepares it."""

    text = models.TextField()
    run_id = models.CharField(max_length=500)

    def __str__(self) -> str:
        return self.text
