"""Griffe extension: shapes of tensors stay quoted in the API reference.

Griffe reads a string in an annotation as code where it can. Without this extension, the reference
would show `Float[Tensor, "d"]` as `Float[Tensor, d]`, beside `Float[Tensor, "step d"]`.
"""

from typing import Any

import griffe

DTYPES = {"Bool", "Float", "Int", "UInt"}


class Shapes(griffe.Extension):
    """Puts the shape of a jaxtyping annotation back into double quotes."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Parameters and what is returned."""
        for parameter in func.parameters:
            quote_shapes(parameter.annotation)
        quote_shapes(func.returns)

    def on_attribute(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Attributes of classes and modules."""
        quote_shapes(attr.annotation)


def quote_shapes(annotation: Any) -> None:
    """Changes the annotation in place."""
    if not isinstance(annotation, griffe.Expr):
        return
    for part in annotation.iterate(flat=False):
        if part is not annotation:
            quote_shapes(part)
    if isinstance(annotation, griffe.ExprSubscript) and str(annotation.left) in DTYPES:
        elements = getattr(annotation.slice, "elements", ())
        if elements:
            elements[-1] = '"' + str(elements[-1]).strip("'\" ") + '"'
