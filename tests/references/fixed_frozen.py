"""Configurations of tests/fixtures of models that are not trained, whose sizes and epsilons differ from part to part."""
from typing import Any

Spec = dict[str, Any]
TOWER = {"hidden_size": 36, "intermediate_size": 50, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 24,
         "patch_size": 8}
DECODER = {"hidden_size": 40, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4,
           "num_key_value_heads": 2, "head_dim": 14, "vocab_size": 90, "max_position_embeddings": 512, "rms_norm_eps": 1e-5}


def folders(shift: int) -> dict[str, Spec]:
    """Positions that timm resamples; encoders of unlike widths; rotations as transformers 5 writes them, with a text between
    tiles, and with a grid of another side than MobileVLM's published one."""
    rotations = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
    text = {"hidden_size": 30, "intermediate_size": 44, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 60,
            "max_position_embeddings": 9, "projection_size": 36, "layer_norm_eps": 1e-5}
    return {
        "dinov2_timm_resampled": {
            "architecture": "dinov2_timm", "img_size": 28, "patch_size": 7, "embed_dim": 36, "depth": 2, "num_heads": 3,
            "mlp_ratio": 2.5, "init_values": 0.1, "num_classes": 0, "norm_eps": 1e-6, "grid": (3, 7), "batch": 2,
            "seed": 1000 + shift},
        "siglip_unlike_towers": {
            "architecture": "siglip", "vision_config": {**TOWER, "layer_norm_eps": 1e-3}, "text_config": text, "texts": 3,
            "batch": 2, "seed": 1010 + shift},
        "smolvlm_grouped": {
            "architecture": "smolvlm", "vision_config": {**TOWER, "image_size": 48, "layer_norm_eps": 1e-3},
            "text_config": {**DECODER, **rotations}, "scale_factor": 3, "image_token_id": 88, "words": [2, 1, 3, 4],
            "candidate_lengths": [2, 1, 4], "padded_lengths": [3, 6, 1], "new_tokens": 5, "seed": 1020 + shift},
        "mobilevlm_v2_small_grid": {
            "architecture": "mobilevlm_v2", "vision_config": {**TOWER, "image_size": 40},
            "text_config": {**DECODER, **rotations}, "words": [2, 5], "new_tokens": 5, "seed": 1030 + shift},
    }
