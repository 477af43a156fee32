"""No regularizer: labels as they are."""

from regfast.training.regularizers.base import Regularizer, register


@register("hard")
class Hard(Regularizer):
    """Labels as they are; what the others are compared with."""

    label, color, marker = "Hard labels", "#24292f", "o"
