"""The settings of the project."""

import os
from pathlib import Path

BASE = Path(__file__).parent
SECRET_KEY = "only for this example"
INSTALLED_APPS = ["runstate.integrations.django", "shop"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SHOP_DATABASE", str(BASE / "shop.db")),
        "TEST": {"NAME": os.environ.get("SHOP_TEST_DATABASE", str(BASE / "test_shop.db"))},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
