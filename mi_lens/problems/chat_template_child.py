"""Renders a chat template once, in a process of its own that may be killed.

It reads {"template", "variables", "memory"} as JSON from stdin. It imports nothing of this package
and not transformers, which takes a second: only whether it ends matters, not what it writes. Errors
are left to the process that renders the template in earnest.
"""

import json
import sys

TOO_MUCH_MEMORY = 9


def main() -> None:
    """Renders the template within the limit of memory."""
    task = json.load(sys.stdin)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (task["memory"], task["memory"]))
    except (ImportError, ValueError, OSError):  # not on every system
        pass
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The block that transformers adds, without its meaning."""

        tags = {"generation"}  # noqa: RUF012 -- jinja2 wants a plain set

        def parse(self, parser):
            """The block's content."""
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    def refused(message):
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value)
    environment.globals |= {"raise_exception": refused, "strftime_now": str}
    try:
        environment.from_string(task["template"]).render(task["variables"])
    except MemoryError:
        sys.exit(TOO_MUCH_MEMORY)
    except Exception:
        sys.exit(1)


if __name__ == "__main__":
    main()
