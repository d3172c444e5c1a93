"""Celery's configuration, for every process that sends or runs tasks. Its values come from app.settings."""

from kombu.transport import TRANSPORT_ALIASES

from app import jobs, settings

TRANSPORT_ALIASES |= dict.fromkeys(("redis", "rediss"), "app.transport:Transport")

_settings = settings.load()

#: How often what is over its time is forgotten, in seconds.
PRUNE_SECONDS = 60.0

broker_url = _settings.redis_url
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
broker_transport_options = {
    # 0 is the most urgent, and each of the ten has a list of its own in Redis.
    "priority_steps": list(jobs.PRIORITIES),
    "queue_order_strategy": "priority",
    # What was popped is noted nowhere until it is acknowledged, which would cost two transactions a message: nothing of
    # ours is redelivered by the broker, the sweep does that.
    "ack_emulation": False,
    # A worker that starts to consume a model's queue sees it when the pop under way ends, in seconds.
    "polling_interval": 0.2,
    # A web process only sends, and a request must not wait for a broker that hangs.
    "socket_timeout": 5 if _settings.role == "web" else 30,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
}
result_backend = None
task_ignore_result = True
task_serializer = "json"
accept_content = ["json"]
task_default_priority = jobs.DEFAULT_PRIORITY
# The row is the job, a message only a hint: it is acknowledged before the claim, and never redelivered.
task_acks_late = False
task_create_missing_queues = True
task_routes = {jobs.SWEEP_TASK: {"queue": jobs.MAINTENANCE_QUEUE}, jobs.PULL_TASK: {"queue": jobs.PULL_QUEUE}}
# The threads pool would hoard as many messages as it has threads, and start them during a shutdown.
worker_disable_prefetch = True
worker_prefetch_multiplier = 1
worker_hijack_root_logger = False
worker_redirect_stdouts = False
worker_send_task_events = True
worker_enable_remote_control = True
worker_cancel_long_running_tasks_on_connection_loss = False
worker_concurrency = {
    # A quarter more threads than the slots of all engines that it may hold, so that no model starves another.
    "worker": int((_settings.worker_slots or 64) * _settings.max_cache_models * 1.25) + 1,
    "puller": _settings.max_concurrent_pulls,
    # What takes long must not keep a sweep waiting.
    "keeper": 4,
}.get(_settings.role, 1)
timezone = "UTC"
beat_schedule = {
    "sweep": {
        "task": jobs.SWEEP_TASK,
        "schedule": _settings.sweep_seconds,
        # A sweep that waited longer than this has a successor in the queue.
        "options": {"expires": _settings.sweep_seconds, "queue": jobs.MAINTENANCE_QUEUE, "priority": 0},
    },
    "prune": {
        "task": jobs.PRUNE_TASK,
        "schedule": PRUNE_SECONDS,
        "options": {"expires": PRUNE_SECONDS, "queue": jobs.MAINTENANCE_QUEUE, "priority": 9},
    },
}
beat_max_loop_interval = 5
