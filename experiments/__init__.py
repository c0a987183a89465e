"""The studies, one module per figure, in the order of the gallery."""

STUDIES = (
    "mi_trajectories",
    "peak_statistics",
    "reasoning_against_base",
    "tokens_at_peaks",
    "answer_endings",
    "information_across_problems",
    "error_bounds",
    "suppression",
    "recycling",
    "test_time_scaling",
    # Criticism of paper 1.
    "specificity",
    "scale_of_mi",
    "answer_state_choices",
    "entropy_at_peaks",
    "mi_along_trace",
    "peak_interventions",
    "resampled_thoughts",
    "small_benchmarks",
    # Paper 2 and its criticism.
    "thought_statistics",
    "separability_by_layer",
    "seal_table",
    "steering_ablations",
    "steering_transfer",
    "dose_response",
    "truncation",
    "boundary_reproducibility",
    "vector_stability",
    "reproducibility",
    # Further methods and readings.
    "reasoning_controls",
    "critical_words",
    "critical_tokens",
    "thought_gains",
    "answer_belief",
    "attention_to",
    "reading_vectors",
    "one_axis",
)

# Studies of a pretrained model, beside those of STUDIES that it takes too (`experiments.smollm2`).
STUDIES_OF_SMOLLM2 = ("layer_map", "words_by_ending", "massive_coordinates", "layer_sweep")

# Studies of published texts. They need a folder of texts (`--data`), and are skipped without it.
STUDIES_OF_TEXTS = ("thinking_words_of_real_models", "thoughts_of_real_models")
