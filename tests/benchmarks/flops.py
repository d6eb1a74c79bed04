"""How many floating-point operations a step needs, counted by hand: two per multiply-add.

Only matrix products count. A product's backward pass costs the same again for the weights' gradient
and once more for the inputs' gradient, which the first layer does not need.
"""

from __future__ import annotations

from itertools import pairwise


def mlp(inputs: int, width: int, depth: int, outputs: int, needs: str = "train") -> int:
    """Per row. needs: "forward", "train" (weight gradients) or "input" (gradient of the inputs)."""
    widths = [inputs] + [width] * depth + [outputs]
    products = [a * b for a, b in pairwise(widths)]
    forward = 2 * sum(products)
    if needs == "forward":
        return forward
    if needs == "input":
        return 2 * forward
    return 3 * forward - 2 * products[0]


def iql_update(
    observations: int, actions: int, width: int, depth: int, batch: int, twins: int = 2, vs: int = 1
) -> int:
    """Q and V and the policy trained, the target Q and V(s') evaluated."""
    q = dict(inputs=observations + actions, width=width, depth=depth, outputs=1)
    v = dict(inputs=observations, width=width, depth=depth, outputs=1)
    per_row = twins * (mlp(**q) + mlp(**q, needs="forward"))
    per_row += vs * (mlp(**v) + mlp(**v, needs="forward"))
    per_row += mlp(observations, width, depth, actions)
    return batch * per_row


def transformer_update(
    observations: int,
    actions: int,
    *,
    batch: int,
    steps: int,
    width: int,
    layers: int,
    fused: bool,
    q_width: int,
    q_depth: int,
    twins: int = 2,
    q_features: int | None = None,
) -> int:
    """Forward and backward of the policy, plus Q and its gradient by the action."""
    tokens = batch * steps * (1 if fused else 3)
    length = steps * (1 if fused else 3)
    # Linear maps: 4 C^2 around attention, 8 C^2 in the feed-forward; scores and mixing: 2 T C.
    block = 2 * (12 * width * width + 2 * length * width)
    embedding = 2 * width * (1 + observations + actions)
    head = 2 * width * actions
    policy = 3 * (tokens * layers * block + batch * steps * head) + 2 * batch * steps * embedding
    q = mlp((q_features or observations) + actions, q_width, q_depth, 1, needs="input")
    return policy + batch * steps * twins * q


def world_model_update(
    inputs: int, outputs: int, *, members: int, width: int, depth: int, batch: int
) -> int:
    """All members on their own batch."""
    return members * batch * mlp(inputs, width, depth, outputs)


def imagined_transition(
    observations: int,
    actions: int,
    *,
    width: int,
    depth: int,
    outputs: int,
    policy_width: int,
    policy_depth: int,
    horizon: int,
) -> float:
    """One member's step, one proposal, and this transition's part of the final V."""
    step = mlp(observations + actions, width, depth, outputs, needs="forward")
    propose = mlp(observations, policy_width, policy_depth, actions, needs="forward")
    value = mlp(observations, policy_width, policy_depth, 1, needs="forward")
    return step + propose + value / horizon
