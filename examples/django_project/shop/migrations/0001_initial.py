"""The orders, and the tables of the store."""

from django.db import migrations, models

from runstate.integrations.django import migrate_store


class Migration(migrations.Migration):
    """Make the tables."""

    initial = True
    operations = [
        migrations.CreateModel(
            "Order",
            [
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("text", models.TextField()),
                ("run_id", models.CharField(max_length=500)),
            ],
        ),
        migrations.RunPython(migrate_store, migrations.RunPython.noop),
    ]
