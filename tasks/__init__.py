"""Celery's side: `app` is what `celery -A tasks` runs. Start-up per role is in tasks.startup."""

import warnings

from celery import Celery
from celery.platforms import SecurityWarning

# Running as root, as containers do, is a danger where messages are pickles; ours are JSON and hold a job's id.
warnings.filterwarnings("ignore", category=SecurityWarning)

app = Celery("tokenyard", events="tasks.celeryevents:Events")
app.config_from_object("celeryconfig")
app.conf.imports = ("tasks.startup", "tasks.celerytasks", "tasks.control")
