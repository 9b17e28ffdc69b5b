"""HTTP routes of the server for what happened. vLLM loads them where `VLLM_PLUGINS` names s2t_ext.

GET /v1/s2t/statistics?request_id=ID    counts as JSON
GET /v1/s2t/metrics                     the totals as Prometheus counters
POST /v1/s2t/completions                an answer in which a teacher chooses (`teacher_endpoint`)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily

from s2t_ext.vllm import teacher_endpoint

#: Name in the report -> what it counts.
COUNTERS = {
    "steps": "Tokens decided while Select-to-Think was on.",
    "triggers": "Steps in which the trigger fired.",
    "changed": "Triggered steps in which another candidate than the likeliest was chosen.",
    "forwards": "Look-ahead forward passes.",
    "rows": "Rows of the look-ahead forward passes.",
}


class StatisticsEndpoint:
    """vLLM's endpoint plugin; the entry point `vllm.endpoint_plugins` names it."""

    name = "s2t_ext"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Adds the routes."""
        app.add_api_route("/v1/s2t/statistics", statistics, methods=["GET"])
        app.add_api_route("/v1/s2t/metrics", metrics, methods=["GET"])
        teacher_endpoint.attach(app)

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Keeps the engine's client, and the teacher if there is one, for the routes."""
        state.s2t_engine = engine_client
        state.s2t_teacher = teacher_endpoint.teacher_of(engine_client)


async def statistics(request: Request, request_id: str | None = None) -> Any:
    """Counts of one request (or of all remembered) and in total; 404 for an unknown id."""
    report = await _report(request, request_id)
    if request_id is not None and not report["requests"]:
        raise HTTPException(
            404, f"statistics: request_id must name a remembered request, got {request_id!r}"
        )
    return report


async def metrics(request: Request) -> Response:
    """The totals as text for Prometheus."""
    registry = CollectorRegistry()
    registry.register(_Totals((await _report(request, ""))["total"]))
    return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")


async def _report(request: Request, request_id: str | None) -> dict[str, Any]:
    """The report of the first worker: all ranks of tensor parallelism count the same."""
    engine = request.app.state.s2t_engine
    reports = await engine.collective_rpc("s2t_statistics", args=(request_id,))
    report: dict[str, Any] = reports[0]
    return report


class _Totals:
    """Prometheus' view of one report."""

    def __init__(self, total: dict[str, int]) -> None:
        self._total = total

    def collect(self) -> Iterator[CounterMetricFamily]:
        for name, text in COUNTERS.items():
            yield CounterMetricFamily(f"s2t_{name}", text, value=self._total[name])
