"""The baseline of `serve.py`: the same pipeline as a good engineer would put it behind FastAPI and uvicorn, without Ray."""

import os
from pathlib import Path

import orjson
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from reco_ray.slate import Pipeline
from reco_ray.store import OnlineStore
from reco_ray.types import Request as SlateRequest

app = FastAPI()
_pipeline = Pipeline.load(Path(os.environ["BENCH_RELEASE"]))
_store = OnlineStore(os.environ["BENCH_STORE"], "bench")


class Body(BaseModel):
    """What the benchmark sends."""

    user_id: str
    k: int


@app.post("/v1/recommendations")
async def recommend(request: Request) -> Response:
    """Read the user's row, run the stages in this process, answer by orjson."""
    body = Body.model_validate_json(await request.body())
    row = await _store.user(body.user_id, "bench")
    (slate,) = _pipeline.run([SlateRequest(request_id="r", user_id=body.user_id, k=body.k, user=row)])
    items = [
        {"item_id": item_id, "title": title, "score": score, "position": place, "reasons": reasons}
        for place, (item_id, title, score, reasons) in enumerate(
            zip(slate.item_ids, slate.titles, slate.scores.tolist(), slate.reasons, strict=True), 1
        )
    ]
    return Response(
        orjson.dumps({"request_id": "r", "items": items, "degraded": slate.degraded}), media_type="application/json"
    )
