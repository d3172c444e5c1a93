"""Tiny random checkpoints of the validated architectures, as they would come from a hub: weights, tokenizer, template.

They answer gibberish, but by each architecture's own code path, and in a second. `make_checkpoint` takes one of
`ARCHITECTURES`; the weights follow from a fixed seed, so that two engines can be compared on them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

#: The folder of a tiny model, by its architecture.
Checkpoints = Callable[[str], Path]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: What the tokenizer learns its words from.
LESSON = (
    "The quick brown fox jumps over the lazy dog while the capital of France answers in one sentence.",
    "A language model streams its words, one token after the other, until somebody says that it is enough.",
    "System: You are a helpful assistant. User: What is the capital of France? Assistant: It is Paris.",
)
VOCABULARY = 400
CONTEXT = 4096
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SPECIAL_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
#: What most tiny models have in common. vLLM's attention on the CPU takes no heads that are smaller.
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": CONTEXT,
    **SPECIAL_IDS,
}


def make_checkpoint(architecture: str, folder: Path) -> Path:
    """Write a checkpoint into `folder`, in float32; returns the folder."""
    import torch
    from transformers import GenerationConfig

    with torch.random.fork_rng():
        torch.manual_seed(20)
        model = ARCHITECTURES[architecture]()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 4.0  # further apart than initialisers set them, so that the likeliest token stands out
    model.generation_config = GenerationConfig(**SPECIAL_IDS | {"eos_token_id": [2, 0]})
    model.save_pretrained(folder)
    _tokenizer(has_template=architecture not in WITHOUT_TEMPLATE).save_pretrained(folder)
    return folder


def _tokenizer(*, has_template: bool) -> Any:
    """Byte-level BPE, small: characters beyond ASCII take several tokens, as they do in real ones."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LESSON, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=SPECIAL[1], eos_token=SPECIAL[2], pad_token=SPECIAL[0]
    )
    fast.chat_template = CHATML if has_template else None
    return fast


def _gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=64, n_layer=2, n_head=2, **SPECIAL_IDS)
    )


def _opt() -> Any:
    from transformers import OPTConfig, OPTForCausalLM

    return OPTForCausalLM(OPTConfig(**SIZES, ffn_dim=64, word_embed_proj_dim=64))


def _qwen2() -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**SIZES))


def _qwen3() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=32))


def _qwen3_omni() -> Any:
    """The whole of it, speech included: an engine that wants text alone has to find the thinker in it."""
    from transformers import Qwen3OmniMoeConfig, Qwen3OmniMoeForConditionalGeneration

    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    heads = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    text = SIZES | heads | experts | {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}}
    code = {k: v for k, v in (SIZES | heads).items() if k != "vocab_size"} | {"vocab_size": 64, "head_dim": 8}
    config = Qwen3OmniMoeConfig(
        thinker_config={
            "audio_config": {
                "num_mel_bins": 16,
                "encoder_layers": 1,
                "encoder_attention_heads": 2,
                "encoder_ffn_dim": 32,
                "d_model": 32,
                "output_dim": 32,
                "downsample_hidden_size": 8,
            },
            "vision_config": {
                "depth": 1,
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_heads": 2,
                "out_hidden_size": 32,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0],
            },
            "text_config": text,
        },
        talker_config={
            "text_config": text | {"vocab_size": 64, "shared_expert_intermediate_size": 16},
            "code_predictor_config": code | {"num_code_groups": 2},
            "thinker_hidden_size": 32,
            "num_code_groups": 2,
            "spatial_merge_size": 2,
        },
        code2wav_config={
            "codebook_size": 64,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "decoder_dim": 32,
            "num_quantizers": 2,
        },
    )
    return Qwen3OmniMoeForConditionalGeneration(config)


#: Each validated architecture, and what makes a tiny model of it.
ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "gpt2": _gpt2,
    "opt": _opt,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3-omni": _qwen3_omni,
}
#: Those whose checkpoints bring no chat template.
WITHOUT_TEMPLATE = frozenset({"gpt2", "opt"})
