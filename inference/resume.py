"""What an engine can go on with in the middle, after another process gave out the beginning."""

from inference.protocol import Sampling


def can_continue(engine: str, sampling: Sampling) -> bool:
    """Whether a continuation counts what was emitted as its own output.

    vLLM's presence and frequency penalties leave the prompt out, and the emitted tokens are part of the prompt then
    (https://docs.vllm.ai/en/latest/api/vllm/sampling_params.html).
    """
    penalized = sampling.presence_penalty != 0 or sampling.frequency_penalty != 0
    return sampling.schema is None and not (engine == "vllm" and penalized)
