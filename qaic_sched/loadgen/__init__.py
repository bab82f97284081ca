"""Load testing that can be believed: a plan, an injector, records, laws, a verdict, a report.

Rules of this folder:
- Latency counts from the planned instant; when a request was really sent stands beside it.
- Times are whole nanoseconds since the run began, in numpy arrays; the clock is the event loop's,
  so a run in virtual time is repeatable to the last byte.
- Who measures (`injector`, `mlperf`) judges nothing; who judges (`checks`, `verdict`) reads records
  only; who shows (`plots`, `page`, `terminal`) reads the report only.
"""
