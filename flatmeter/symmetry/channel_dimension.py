"""How many scales of single channels are independent."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from flatmeter.symmetry.channel_scales import ChannelScales


def channel_dimension(channels: ChannelScales) -> int:
    """Dimension of the group that scales single channels.

    Entries move by differences of scales, so that a shift of all scales that hang together changes
    nothing: each connected part of them has one scale less than identifiers. Where a part ties a
    scale to its own opposite no shift is left over.
    """
    pairs = [torch.zeros(2, 1, dtype=torch.long)]
    for law in channels.laws:
        both = torch.stack([x.reshape(-1) for x in torch.broadcast_tensors(law.plus, law.minus)])
        pairs.append(torch.unique(both, dim=1))
    ids = torch.cat(pairs, dim=1)
    # Every scale and its opposite, of which zero's are the same.
    nodes = torch.cat([ids, -ids], dim=1)
    plus, minus = torch.where(nodes < 0, channels.count - 1 - nodes, nodes).numpy()
    size = 2 * channels.count - 1
    joined = coo_array((np.ones(len(plus)), (plus, minus)), shape=(size, size))
    parts, label = connected_components(joined, directed=False)
    scale, opposite = label[: channels.count], np.append(label[0], label[channels.count :])
    own = len(set(scale[scale == opposite]))
    return int(channels.count - 1 - (parts - own) // 2)
