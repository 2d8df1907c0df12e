"""The shapes of the bundled pair, as transformers configurations."""

from transformers import LlamaConfig

from specexec.bundled.corpus import BOS, EOS

VOCABULARY = 2048
CONTEXT = 1024


def _llama(width: int, layers: int, heads: int, ffn: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=ffn,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )


def target() -> LlamaConfig:
    """About 5 M parameters."""
    return _llama(width=256, layers=6, heads=8, ffn=768)


def draft() -> LlamaConfig:
    """At most 0.8 M parameters."""
    return _llama(width=128, layers=2, heads=4, ffn=512)
