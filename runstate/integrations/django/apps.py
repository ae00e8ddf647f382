"""The Django application."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["RunstateConfig"]


class RunstateConfig(AppConfig):
    """The application `runstate.integrations.django`. Its label is `runstate`."""

    name: str = "runstate.integrations.django"
    label: str = "runstate"
