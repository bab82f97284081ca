"""Fairness: weights in a priority, guaranteed shares before it, and credit of idle tenants."""

from __future__ import annotations

from collections import Counter

import pytest

from qaic_sched.core.model import Part, Request, RequestState, Tenant
from qaic_sched.core.request_queue import RequestQueue
from qaic_sched.core.tenants import MAX_SAVED_SAMPLES, Tenants
from tests.core.harness import answer_all, drive, make_state, outcomes


class Shop:
    """A queue that tenants keep full, and the samples served to each."""

    def __init__(self, **tenants: Tenant) -> None:
        self.queue = RequestQueue(RequestState.QUEUED, tenants)
        self.served: Counter[str] = Counter()
        self._next_id = 0

    def push(self, tenant: str, count: int = 1, samples: int = 1, priority: int = 0) -> None:
        for _ in range(count):
            request = Request(self._next_id, samples, 0.0, priority=priority, tenant=tenant)
            self._next_id += 1
            self.queue.push(request)

    def serve(self, samples: int, batch: int = 1) -> list[str]:
        """Take samples batch by batch; return the tenant of each part."""
        order = []
        for _ in range(samples // batch):
            for part in self.queue.take(batch):
                self.served[_name(part)] += part.samples
                order.append(_name(part))
        return order


def _name(part: Part) -> str:
    return str(part.request.tenant)


@pytest.mark.parametrize("batch", [1, 8])
def test_tenants_are_served_by_weight(batch: int) -> None:
    """Weights 3, 1 and the default of 1 get three, one and one fifth."""
    shop = Shop(a=Tenant(3.0), b=Tenant(1.0))
    for tenant in "abc":
        shop.push(tenant, 1000)
    shop.serve(1000, batch)
    shop.queue.check()

    assert [shop.served[each] for each in "abc"] == pytest.approx([600, 200, 200], abs=3 * batch)


def test_the_size_of_requests_does_not_matter_to_weights() -> None:
    """Samples count, not requests."""
    shop = Shop(a=Tenant(1.0), b=Tenant(1.0))
    shop.push("a", 20, samples=50)
    shop.push("b", 1000)
    shop.serve(1000, 8)

    assert shop.served["a"] == pytest.approx(500, abs=50)


def test_equal_tenants_take_turns_in_the_order_in_which_they_came() -> None:
    """No tenant is served twice before each was served once."""
    shop = Shop()
    for tenant in "cab":
        shop.push(tenant, 3)

    assert "".join(shop.serve(9)) == "cabcabcab"


def test_an_idle_tenant_is_owed_little() -> None:
    """A tenant that comes back gets at most the saved samples first, then its weight's part."""
    shop = Shop()
    for tenant in ("a", "b", "late"):
        shop.push(tenant, 1)
    shop.serve(3)
    for tenant in "ab":
        shop.push(tenant, 1000)
    shop.serve(1000)
    shop.push("late", 1000)

    assert shop.serve(99) == ["late"] * 99
    shop.serve(10)
    shop.served.clear()
    shop.serve(300)
    assert [shop.served[each] for each in ("a", "b", "late")] == pytest.approx([100] * 3, abs=2)


def test_a_new_tenant_has_nothing_saved() -> None:
    """It takes turns with the others."""
    shop = Shop()
    for tenant in "ab":
        shop.push(tenant, 1000)
    shop.serve(500)
    shop.push("new", 1000)
    shop.served.clear()
    shop.serve(300)

    assert [shop.served[each] for each in ("a", "b", "new")] == pytest.approx([100] * 3, abs=2)


def test_a_burst_within_its_part_is_served_as_if_the_tenant_were_alone() -> None:
    """Ten samples now and then, of a tenant below its part, are served without waiting."""
    shop = Shop()
    shop.push("busy", 2000)
    for _ in range(20):
        shop.serve(30)
        shop.push("bursty", 10)
        if shop.served["bursty"] >= 10:
            assert shop.serve(10) == ["bursty"] * 10


def test_a_guaranteed_share_is_saved_up_to_a_bound() -> None:
    """After a long idle time only the bounded credit goes before priorities."""
    shop = Shop(slow=Tenant(share=0.5))
    shop.push("urgent", 3000, priority=9)
    shop.serve(2000)
    shop.push("slow", 300)
    order = shop.serve(300)

    assert order.index("urgent") == pytest.approx(2 * MAX_SAVED_SAMPLES, abs=5)


def test_leaving_and_coming_back_gains_nothing() -> None:
    """A tenant that always has just one request gets its weight's part."""
    shop = Shop(a=Tenant(3.0))
    shop.push("a", 1000)
    for _ in range(400):
        if not any(request.tenant == "b" for request in shop.queue):
            shop.push("b")
        shop.serve(1)

    assert shop.served["b"] == pytest.approx(100, abs=3)


def test_a_guaranteed_share_goes_before_priorities() -> None:
    """A tenant gets its fifth although all others are more urgent; they get the rest."""
    shop = Shop(slow=Tenant(share=0.2))
    shop.push("slow", 1000)
    shop.push("urgent", 1000, priority=9)
    shop.serve(1000)

    # One sample in fifty is for a starved priority.
    assert shop.served["slow"] == pytest.approx(200, abs=25)


def test_a_large_request_of_a_guaranteed_share_is_paid_for_afterwards() -> None:
    """Samples served beyond the share are deducted later."""
    shop = Shop(slow=Tenant(share=0.2))
    shop.push("slow", 100, samples=10)
    shop.push("urgent", 2000, priority=9)
    shop.serve(1000, 10)

    assert shop.served["slow"] == pytest.approx(200, abs=40)


def test_a_guaranteed_share_that_is_served_anyway_takes_nothing_from_others() -> None:
    """With a share below its weight's part, a tenant gets no more than without."""
    shop = Shop(a=Tenant(share=0.2), b=Tenant())
    shop.push("a", 1000)
    shop.push("b", 1000)
    shop.serve(1000)

    assert shop.served["a"] == pytest.approx(500, abs=5)


def test_of_two_guaranteed_shares_the_one_further_behind_is_first() -> None:
    """Both get their shares on a host that others keep busy."""
    shop = Shop(a=Tenant(share=0.3), b=Tenant(share=0.1))
    shop.push("a", 1000)
    shop.push("b", 1000)
    shop.push("urgent", 1000, priority=9)
    shop.serve(1000)

    assert shop.served["a"] == pytest.approx(300, abs=25)
    assert shop.served["b"] == pytest.approx(100, abs=25)


def test_tenants_that_went_away_are_forgotten() -> None:
    """Ten thousand one-time tenants take no memory; one with a share is kept."""
    shop = Shop(a=Tenant(share=0.1))
    account = shop.queue.tenants.account("a")
    for number in range(10_000):
        shop.push(f"tenant {number}", 1 + number % 2)
        shop.serve(2)

    assert len(shop.queue.tenants._accounts) <= 130
    assert shop.queue.tenants.account("a") is account


def test_tenants_without_requests_are_skipped() -> None:
    """A tenant whose requests all left takes no turn."""
    shop = Shop()
    for tenant in "abc":
        shop.push(tenant, 4)
    for request in [each for each in shop.queue if each.tenant == "b"]:
        shop.queue.leave(request, RequestState.CANCELLED)
        shop.queue.check()

    assert "".join(shop.serve(8)) == "acacacac"
    assert shop.queue.tenants.num_active == 0
    assert shop.serve(1) == []


def test_parts_of_the_queue_add_up_to_all_of_it() -> None:
    """A part is the share plus the weight's part of the rest; unconfigured tenants count too."""
    tenants = Tenants({"a": Tenant(3.0), "b": Tenant(1.0, 0.2)})
    parts = [tenants.part_of(tenants.account(each)) for each in "ab"]

    assert parts == pytest.approx([0.6, 0.4])
    assert tenants.part_of(tenants.account("stranger")) == pytest.approx(0.16)
    tenants.enter(tenants.account("stranger"), Request(0, 1, 0.0, tenant="stranger"))
    assert [tenants.part_of(tenants.account(each)) for each in ("a", "b", "stranger")] == (
        pytest.approx([0.48, 0.36, 0.16])
    )


def test_a_tenant_queue_found_empty_out_of_turn_takes_no_turn() -> None:
    """A share that is behind looks at its most urgent queue first, out of turn."""
    shop = Shop(a=Tenant(0.01, 0.5), c=Tenant(0.005))
    for tenant, count in (("a", 2), ("b", 10), ("c", 2)):
        shop.push(tenant, count, priority=1)
    assert "".join(shop.serve(3)) == "abc"

    (left,) = (request for request in shop.queue if request.tenant == "a")
    shop.queue.leave(left, RequestState.CANCELLED)
    shop.push("a")
    assert "".join(shop.serve(11)) == "abbbbbbbbbc"


# Admission


def test_a_greedy_tenant_leaves_room_for_the_others() -> None:
    """It fills its own part and is rejected beyond it; another tenant still fits."""
    tenants = {"greedy": Tenant(1.0), "modest": Tenant(1.0)}
    state = make_state(devices=0, max_samples=10, waits_when_full=False, tenants=tenants)
    greedy = [Request(each, 1, 0.0, tenant="greedy") for each in range(8)]
    rejected = drive(state, 0.0, *greedy).resolve
    assert outcomes(rejected) == [(5, "rejected"), (6, "rejected"), (7, "rejected")]

    modest = [Request(each, 1, 0.0, tenant="modest") for each in range(8, 14)]
    assert outcomes(drive(state, 0.0, *modest).resolve) == [(13, "rejected")]


def test_bytes_have_parts_like_samples() -> None:
    """One of two tenants may fill half of the bytes."""
    tenants = {"a": Tenant(1.0), "b": Tenant(1.0)}
    state = make_state(devices=0, max_bytes=100, waits_when_full=False, tenants=tenants)
    several = [Request(each, 1, 0.0, num_bytes=20, tenant="a") for each in range(4)]

    assert outcomes(drive(state, 0.0, *several).resolve) == [(2, "rejected"), (3, "rejected")]


def test_the_first_request_of_a_tenant_may_be_larger_than_its_part() -> None:
    """Otherwise it could never be served."""
    tenants = {"a": Tenant(1.0), "b": Tenant(9.0)}
    state = make_state(devices=0, max_samples=10, waits_when_full=False, tenants=tenants)

    assert drive(state, 0.0, Request(0, 5, 0.0, tenant="a")).resolve == []
    assert drive(state, 0.0, Request(1, 5, 0.0, tenant="b")).resolve == []


def test_waiting_requests_are_admitted_by_weight() -> None:
    """A tenant that fills the queue and the waiting requests does not keep others out."""
    tenants = {"a": Tenant(3.0), "b": Tenant(1.0)}
    state = make_state(max_samples=4, tenants=tenants)
    drive(state, 0.0, *(Request(each, 1, 0.0, tenant="a") for each in range(300)))
    drive(state, 0.0, *(Request(each, 1, 0.0, tenant="b") for each in range(300, 600)))
    done: Counter[str | None] = Counter()
    for step in range(1, 201):
        done.update(each.tenant for each in answer_all(state, float(step)).resolve)

    assert done["b"] == pytest.approx(50, abs=4)


def test_weights_may_change_while_work_is_queued() -> None:
    """The new weights apply from then on, and every request is still counted once."""
    shop = Shop(a=Tenant(3.0))
    for tenant in "ab":
        shop.push(tenant, 1000)
    shop.serve(400)
    assert [shop.served[each] for each in "ab"] == pytest.approx([300, 100], abs=3)
    shop.queue.tenants.change({"b": Tenant(3.0)})
    shop.serve(400)
    shop.queue.check()

    assert [shop.served[each] for each in "ab"] == pytest.approx([400, 400], abs=6)
    assert shop.queue.tenants.fraction_of(shop.queue.tenants.account("b")) == 0.75


def test_a_share_may_be_given_and_taken_away_while_work_is_queued() -> None:
    """It goes before priorities as long as it is guaranteed, and leaves no credit behind."""
    shop = Shop()
    shop.push("a", 1000, priority=1)
    shop.push("b", 1000)
    shop.queue.tenants.change({"b": Tenant(share=0.5)})
    shop.serve(200)
    assert shop.served["b"] == pytest.approx(100, abs=2)
    shop.queue.tenants.change({})
    shop.serve(200)
    shop.queue.check()

    assert shop.served["b"] == pytest.approx(104, abs=3), "all but one in fifty is the other's"
    assert shop.queue.tenants.guaranteed == []


def test_a_new_share_is_not_dropped_for_the_next_one() -> None:
    """Its idle account stays although there are too many accounts."""
    tenants = Tenants({})
    known = tenants.account("known")
    for number in range(63):
        tenants.account(f"idle {number}")
    tenants.change({"known": Tenant(share=0.3), "new": Tenant(share=0.3)})

    assert tenants.account("known") is known
    assert tenants.guaranteed == [known, tenants.account("new")]


def test_an_isolated_tenant_is_kept_apart_at_every_priority() -> None:
    """Batches of the others are as full as without it; its own have all of its priorities."""
    shop = Shop()
    for priority in (0, 1):
        for tenant in ("a", "bad", "b", "bad"):
            shop.push(tenant, 2, priority=priority)
    shop.queue.tenants.isolate("bad", 0.0, 0)
    batches = []
    while shop.queue.samples:
        batches.append("".join(sorted({_name(part) for part in shop.queue.take(4)})))
        shop.queue.check()

    assert sorted(batches) == ["ab", "ab", "bad", "bad"]


def test_stale_requests_are_skipped_beside_an_isolated_tenant() -> None:
    """A tenant all of whose requests were cancelled is passed over."""
    shop = Shop()
    for tenant in ("a", "bad", "gone", "b"):
        shop.push(tenant, 2)
    shop.queue.tenants.isolate("bad", 0.0, 0)
    for request in list(shop.queue):
        if request.tenant == "gone":
            shop.queue.leave(request, RequestState.CANCELLED)

    batches = [sorted(shop.serve(4, batch=4)) for _ in range(2)]
    assert sorted(batches) == [["a", "a", "b", "b"], ["bad", "bad"]]
    assert shop.queue.num_stale == 0


def test_isolation_ends_and_takes_no_memory() -> None:
    """After ten seconds, and for the one isolated longest if too many are."""
    tenants = Tenants({})
    for number in range(100):
        tenants.isolate(f"{number}", float(number) / 100, 0)
    assert len(tenants.isolated) == 64
    assert not tenants.account("35").is_isolated
    assert tenants.account("36").is_isolated
    for number in range(1000):
        tenants.account(f"idle {number}")
    assert tenants.account("36").is_isolated

    tenants.isolate("36", 5.0, 0)
    tenants.end_isolation(10.5)
    assert not tenants.account("50").is_isolated
    assert tenants.account("51").is_isolated
    tenants.end_isolation(14.9)
    assert list(tenants.isolated) == ["36"]
    tenants.end_isolation(15.0)
    assert not tenants.isolated
    assert not tenants.account("36").is_isolated


def test_what_a_culprit_costs_counts_as_served() -> None:
    """A tenant is served as much less as it is charged."""
    shop = Shop()
    for tenant in "ab":
        shop.push(tenant, 100)
    shop.queue.tenants.isolate("b", 0.0, 30)

    assert shop.serve(60).count("a") == pytest.approx(45, abs=1)
