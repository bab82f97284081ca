"""The scaling scenario of the policies, shortened."""

from __future__ import annotations

from pathlib import Path

from bench.policies import SCALING, run_scaling
from qaic_sched.testing import run_virtual


def test_scaling_up_and_down_under_load_fails_and_expires_nothing(tmp_path: Path) -> None:
    """Scaling 2 to 8 to 2 activations at 0.8 load fails no request with a deadline of 0.1 s."""
    model = tmp_path / "host.sim.yaml"
    model.write_text(SCALING.replace("service_time_s: 0.005", "service_time_s: 0.020"))

    async def main() -> dict[str, int]:
        arrivals, late, metrics = await run_scaling(str(model), until_s=6.0, execute_s=0.020)
        assert len(arrivals) == len(late) == metrics["requests"]["done"] > 2_500
        assert max(late) <= 0.1
        assert {each["activations"] for each in metrics["devices"].values()} == {2}
        outcomes: dict[str, int] = metrics["requests"]
        return {each: outcomes[each] for each in ("failed", "expired", "rejected", "cancelled")}

    assert run_virtual(main) == dict.fromkeys(("failed", "expired", "rejected", "cancelled"), 0)
