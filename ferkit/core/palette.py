"""The colours of plots, reports, pages and the site, in one place; style sheets repeat them, and a test compares.

Series differ in lightness, so that they can be told apart in gray, and in hue as people with red-green blindness see it
(after Okabe and Ito, 2002).
"""

ACCENT = "#0b6e69"
"""Links, buttons and the logo."""
INK, MUTED, GRID = "#222222", "#666666", "#dddddd"
SERIES = ("#2f6db3", "#d9822b", "#3b8f5a", "#a4479b", "#c23b3b", "#1b8a96", "#8a6a1f", "#6b7280")
"""For things that are told apart by colour, in this order."""
BLUE, ORANGE, GREEN = SERIES[:3]
