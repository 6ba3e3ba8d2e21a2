"""What methods remember of each training image: one row of a table per image, in the method's state.

The tables are part of every checkpoint, so that a killed run goes on with the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sapling.errors import MethodError
from sapling.types import PairInfo

MOST_BYTES = 2**30
"""Of all tables of a method together, 1 GiB: they are written with every checkpoint."""


class ImageRows(nn.Module):
    """Finds the row of each image of a batch: rows are the training images, in the order of ``train_labels``.

    Args:
        info: N, and what batches call the N images.
    """

    table: Tensor

    def __init__(self, info: PairInfo) -> None:
        super().__init__()
        self.num_rows = info.num_samples
        rows = torch.arange(self.num_rows)
        indices = rows if info.train_indices is None else info.train_indices
        # N is no row: whoever reads a table there gets an error, not another image's memory
        table = torch.full((int(indices.max()) + 1,), self.num_rows)
        table[indices] = rows
        self.register_buffer("table", table, persistent=False)  # data and split make it anew

    def forward(self, indices: Tensor) -> Tensor:
        """``Batch.indices`` ``[B]`` to rows ``[B]`` int64.

        Raises:
            MethodError: one is no training image; only looked at where that need not wait for a GPU.
        """
        if indices.is_cuda:
            return self.table[indices]
        is_listed = (indices >= 0) & (indices < len(self.table))
        rows = self.table[indices.where(is_listed, torch.zeros_like(indices))]
        strangers = indices[~is_listed | (rows == self.num_rows)]
        if len(strangers):
            raise MethodError(
                f"image {int(strangers[0])} is none of the {self.num_rows} training images that are remembered",
                allowed="the images that the method was built for",
            )
        return rows


@torch.no_grad()
def write_rows(table: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """Put ``values`` ``[B,..]`` into ``rows`` ``[B]`` of ``table`` ``[N,..]``, in place; gives the table.

    Where an image is in the batch twice (``--imbalance sampler`` draws it again) the last one is kept, on every device.
    A table that the backward pass still needs is to be cloned first.
    """
    order = torch.arange(1, len(rows) + 1, device=rows.device)
    last = ((rows[:, None] == rows[None, :]) * order).argmax(dim=1)
    return table.index_put_((rows,), values[last].to(table))


def check_table_size(method: str, num_bytes: int, remedy: str) -> None:
    """Refuse tables that would make every checkpoint huge.

    Raises:
        MethodError: they need more than ``MOST_BYTES``.
    """
    if num_bytes > MOST_BYTES:
        raise MethodError(
            f"method {method!r} would remember {num_bytes / 2**30:.1f} GiB about the training images",
            allowed=f"{MOST_BYTES / 2**30:.0f} GiB, as it is written with every checkpoint",
            remedy=remedy,
        )
