"""POST /pull: download a model."""

from flask import Response, jsonify
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from app.web.current import here
from app.web.schemas import PullBody
from app.web.submit import submit_pull

pulls = APIBlueprint("pulls", __name__, abp_tags=[Tag(name="models", description="What this machine can run.")])


@pulls.post("/pull", summary="Download a model")
def create_pull(body: PullBody) -> tuple[Response, int]:
    """Accepts the download; `GET /jobs/{job_id}` shows its progress."""
    job = submit_pull(here().kernel, body)
    return jsonify({"status": "accepted", "job_id": job.id}), 202
