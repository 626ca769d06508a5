"""The tokens of all hypotheses of a beam search as a tree, for compiled searches."""

import numpy as np

from tools.decoding.compiled import compiled


@compiled
def compact(nodes, num_nodes, leaves):
    """Removes the nodes that no hypothesis needs.

    Args:
        nodes: `[N, C]` int32; the first column is the parent of a node, or -1. Parents stand before
            their children. Updated.
        num_nodes: number of nodes in use.
        leaves: last node of each hypothesis, or -1; updated.

    Returns:
        The number of nodes that are left.
    """
    numbers = np.full(num_nodes, -1, np.int64)
    for leaf in leaves:
        node = leaf
        while node >= 0 and numbers[node] < 0:
            numbers[node] = 0
            node = nodes[node, 0]
    num_left = 0
    for node in range(num_nodes):
        if numbers[node] < 0:
            continue
        numbers[node] = num_left
        parent = nodes[node, 0]
        nodes[num_left] = nodes[node]
        nodes[num_left, 0] = numbers[parent] if parent >= 0 else -1
        num_left += 1
    for index in range(len(leaves)):
        if leaves[index] >= 0:
            leaves[index] = numbers[leaves[index]]
    return num_left
