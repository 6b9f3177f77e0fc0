"""What a measured sensitivity says, as a table for the terminal and in sentences."""

from __future__ import annotations

from umbel.evaluation.sensitivity_measure import Moved, Sensitivity
from umbel.evaluation.sensitivity_picture import by_operation

MOST = 3
CAUTION = (
    "What moves embeddings far changes what this backbone tells species apart by; that it harms training is not shown "
    "by this: a backbone that was trained with an operation hardly moves by it, and strengths of different operations "
    "cannot be compared."
)


def table(found: Sensitivity) -> str:
    """A row for each operation, the farthest first, as aligned text."""
    head = ("operation", "from mild to strong", "movement", "at the farthest (95 %)", "nearest changes", "accuracy")
    lines = [head]
    for group in by_operation(found.moved):
        far = max(group, key=lambda one: one.movement)
        low, high = far.movement_interval
        lines.append(
            (
                group[0].operation,
                f"{group[0].unit} {' '.join(one.label for one in group)}".strip(),
                " ".join(f"{one.movement:.2f}" for one in group),
                f"{far.movement:.2f} ({low:.2f} to {high:.2f})",
                f"{100 * far.changed:.0f} %",
                f"{100 * far.accuracy:.0f} %",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def sentences(found: Sensitivity) -> list[str]:
    """Which operations move embeddings farthest and least, and what that does not say."""
    farthest = [max(group, key=lambda one: one.movement) for group in by_operation(found.moved)]
    most, least = farthest[:MOST], farthest[-1]
    opening = (
        f"{found.photographs} photographs of {found.species} species; movement 1 is the mean cosine distance between "
        f"photographs of different species, {found.between_species:.3g}."
    )
    told = [opening, f"Farthest: {'; '.join(map(_moves, most))}. Least: {_moves(least)}."]
    if found.accuracy < 2 * found.chance:
        told.append(
            f"The nearest centroid names {100 * found.accuracy:.0f} % of the unchanged photographs rightly, by chance "
            f"{100 * found.chance:.0f} %: this backbone hardly tells these species apart, and movements mean little."
        )
    return [*told, CAUTION]


def _moves(one: Moved) -> str:
    return f"{one.name} moves {one.movement:.2f} and changes {100 * one.changed:.0f} % of the nearest species"
