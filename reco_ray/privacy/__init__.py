"""Privacy: wishes to be erased and days to keep data come in, receipts and reports go out; jobs and the gateway call it.

`erasure` knows the order, `steps` the places; `lake`, `files` and `bus` remove a user from one kind of place each. `retention`
removes what is past its days.
"""

from reco_ray.privacy.receipts import Place, Receipt, audited
from reco_ray.privacy.requests import find_receipt, receipts, request_erasure

__all__ = ["Place", "Receipt", "audited", "find_receipt", "receipts", "request_erasure"]
