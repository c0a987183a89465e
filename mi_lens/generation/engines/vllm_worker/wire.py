"""Names that both sides of the wire know."""

KEY = "mi_lens"  # In the extra arguments of a request, and in vLLM's additional config.
LOAD_FORMAT = "mi_lens_watched"
BEGAN_BY = "MI_LENS_VLLM_BEGAN_BY"  # In the environment of workers: the process they end with.
