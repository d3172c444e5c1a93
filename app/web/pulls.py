"""POST /pull: download a model."""

from flask import Response, jsonify

from app.web.access import Access, needs
from app.web.answers import blueprint
from app.web.current import here
from app.web.job_answers import PullAnswer
from app.web.schemas import PullBody
from app.web.submit import submit_pull

pulls = needs(Access.OPERATORS)(blueprint("pulls", "models", "What this machine can run."))


@pulls.post("/pull", summary="Download a model", responses={202: PullAnswer})
def create_pull(body: PullBody) -> tuple[Response, int]:
    """Accepts the download; `GET /jobs/{job_id}` shows its progress."""
    job = submit_pull(here().kernel, body)
    return jsonify({"status": "accepted", "job_id": job.id}), 202
