"""The differences between TransformerLens's two model classes, behind one set of functions.

`HookedTransformer` reimplements each architecture and exists up to TransformerLens 3.
`TransformerBridge` wraps the Hugging Face model and is the only class from TransformerLens 4 on.
Each class has a module here with the same functions (`protocol.Backend`), so that no code outside
this folder needs to know the class of its model:

    backend = backend_of(model)
    cache = backend.new_cache(model, batch_size)
    logits = backend.step(model, tokens, attention_mask, cache)

Hooks are attached as usual in TransformerLens, with `model.hooks(fwd_hooks=...)` around the call.
A hook function that needs its own hook name must keep the name by which it was attached, because
on a bridge `hook.name` is another name of the same hook point.
`model.cfg.n_layers`, `.d_model`, `.d_vocab`, `.n_ctx`, `.dtype` and `.device` mean the same
on both classes.
"""
