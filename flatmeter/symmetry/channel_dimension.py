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
    nothing: each connected part of them has one scale less than identifiers.
    """
    pairs = []
    for law in channels.laws:
        both = torch.stack([x.reshape(-1) for x in torch.broadcast_tensors(law.plus, law.minus)])
        pairs.append(torch.unique(both, dim=1))
    plus, minus = torch.cat(pairs, dim=1).numpy() if pairs else np.zeros((2, 0), dtype=int)
    joined = coo_array((np.ones(len(plus)), (plus, minus)), shape=(channels.count,) * 2)
    parts, _ = connected_components(joined, directed=False)
    return int(channels.count - parts)
