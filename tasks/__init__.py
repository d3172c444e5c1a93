"""Celery's side: `app` is what `celery -A tasks` runs. Start-up per role is in tasks.startup."""

from celery import Celery

app = Celery("tokenyard")
app.config_from_object("celeryconfig")
app.conf.imports = ("tasks.startup", "tasks.generate", "tasks.pull_task", "tasks.keeper", "tasks.control")
