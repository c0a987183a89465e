"""mi_lens: where in its reasoning does a language model come to know the answer?

Public names load on first use, so that `import mi_lens` costs neither torch nor transformer_lens.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
