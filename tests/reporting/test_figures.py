"""Names in figures."""

from __future__ import annotations

from itertools import combinations

from robustbench_med.reporting.figures import pyplot, spread


def test_no_name_covers_another() -> None:
    plt = pyplot()
    figure, axis = plt.subplots()
    points = {f"a longer name {i}": (0.9 + 0.001 * i, 0.01 * (i % 3)) for i in range(12)}
    axis.scatter(*zip(*points.values(), strict=True))
    axis.set(xlim=(0, 1), ylim=(0, 1))
    spread(axis, points, 7)
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axis.texts if text.get_text()]
    frame = axis.get_window_extent(renderer)
    plt.close(figure)
    assert len(boxes) == len(points)
    assert not any(first.overlaps(second) for first, second in combinations(boxes, 2))
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
