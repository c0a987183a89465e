"""The little that differs between TransformerLens's two model classes.

`HookedTransformer` exists up to TransformerLens 3 and reimplements each architecture;
`TransformerBridge` wraps the Hugging Face model and is the only one from TransformerLens 4 on.
Each has a module here with the same functions (`protocol.Backend`), and nothing outside this folder
needs to know which of the two it holds:

    backend = backend_of(model)
    cache = backend.new_cache(model, batch_size)
    logits = backend.step(model, tokens, attention_mask, cache)

Hooks are attached as everywhere in TransformerLens, with `model.hooks(fwd_hooks=...)` around the
call. A hook function that wants to know where it is must remember the name it was attached by: on a
bridge `hook.name` is another name of the same place.
`model.cfg.n_layers`, `.d_model`, `.d_vocab`, `.n_ctx`, `.dtype` and `.device` mean the same
on both classes.
"""
