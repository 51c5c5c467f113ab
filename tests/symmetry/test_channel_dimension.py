from __future__ import annotations

import torch
from known_nets import KNOWN

from flatmeter.symmetry.channel_dimension import channel_dimension
from flatmeter.symmetry.channel_scales import ChannelScales, Scale


def test_it_is_the_rank_of_what_entries_move_by(known):
    channels = known.group.channels
    moves = torch.zeros(len(known.flat), channels.count)
    entries = torch.arange(len(moves))
    moves[entries, channels.plus.long()] += 1
    moves[entries, channels.minus.long()] -= 1
    rank = int(torch.linalg.matrix_rank(moves))
    assert channel_dimension(channels) == rank
    if not KNOWN[known.name].beyond:
        assert rank == KNOWN[known.name].entries


def test_scales_that_nothing_ties_to_the_fixed_one_count_one_less():
    law = Scale(torch.tensor([[1], [2]]), torch.tensor([[3, 4]]))
    channels = ChannelScales((law,), (torch.Size([2, 2]),), 5, (False,))
    # Four scales of a matrix's rows and columns: a shift of all of them does nothing.
    assert channel_dimension(channels) == 3
