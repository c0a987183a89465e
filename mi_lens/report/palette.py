"""The page's shades: blue for high values, orange for low ones, on light and dark paper."""

from mi_lens.report.plots.style import BLUE, ORANGE, SKY

SHADES = 7
PAPERS = ("#ffffff", "#14171a")  # Light, dark.
INKS = ("#14171a", "#ffffff")
RISING = (0.0, 0.1, 0.22, 0.38, 0.58, 0.8, 1.0)  # Share of the colour in each shade.
LIGHT_ORANGE = "#F0A070"


def shades_css() -> str:
    """CSS classes h0 to h6 (low to high) and d0 to d6 (below to above zero), with text colours."""
    rules = []
    for i, share in enumerate(RISING):
        rules.append(_rule(f".h{i}", (BLUE, SKY), share))
    diverging = [((ORANGE, LIGHT_ORANGE), share) for share in (0.6, 0.25)]
    diverging += [((BLUE, SKY), share) for share in (0.0, 0.15, 0.35, 0.6, 1.0)]
    for i, (colours, share) in enumerate(diverging):
        rules.append(_rule(f".d{i}", colours, share))
    return "\n".join(rules)


def _rule(selector: str, colours: tuple[str, str], share: float) -> str:
    grounds = [mixed(c, paper, share) for c, paper in zip(colours, PAPERS, strict=True)]
    texts = [max(INKS, key=lambda ink, g=ground: contrast(ink, g)) for ground in grounds]
    return (
        f"{selector} {{ background: light-dark({', '.join(grounds)}); "
        f"color: light-dark({', '.join(texts)}); }}"
    )


def mixed(colour: str, paper: str, share: float) -> str:
    """Mixes a share of a colour into the paper's colour; all are #rrggbb."""
    pairs = zip(_channels(colour), _channels(paper), strict=True)
    return "#" + "".join(f"{round(255 * (share * a + (1 - share) * b)):02x}" for a, b in pairs)


def contrast(colour: str, other: str) -> float:
    """The contrast ratio of two colours as WCAG 2 defines it, 1 to 21."""
    light, dark = sorted((_luminance(colour), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _channels(colour)
    ]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _channels(colour: str) -> list[float]:
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
