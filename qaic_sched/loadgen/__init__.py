"""Load tests: a plan, an injector, records, checks, a verdict and a report.

The documented functions and classes, by module:

| import from | names |
|---|---|
| `qaic_sched.loadgen.load` | `run_load` runs one plan, `opened` allows several |
| `qaic_sched.loadgen.plan.plan` | `Plan`, `Rules`, `Slo`, `Poisson` and other arrivals |
| `qaic_sched.loadgen.plan.scenarios` | `plan_for` makes the plan of an MLPerf scenario |
| `qaic_sched.loadgen.plan.inputs` | `InputLibrary`: random inputs, or the rows of a file |
| `qaic_sched.loadgen.targets.scheduler` | `SchedulerTarget`: a scheduler in this process |
| `qaic_sched.loadgen.targets.server` | `ServerTarget`: a KServe v2 server |
| `qaic_sched.loadgen.campaign` | `find_rate`, `over_rates`, `over_concurrency`, `over_shapes` |
| `qaic_sched.loadgen.report.report` | `Report`, `read_report`, `write_report` |
| `qaic_sched.loadgen.show.run_files` | `write_run` writes all files of a run |
| `qaic_sched.loadgen.show.plots` | `plot` draws the plots of a report |
| `qaic_sched.loadgen.show.terminal` | `print_report` prints a report |

This module imports none of them: load processes start with the modules that they need.

Rules of this folder:
- Latency counts from the planned instant of a request; the response time counts from its sending.
- Times are integer nanoseconds since the start of the run, in numpy arrays. The clock is the event
  loop's, so a run in virtual time is repeatable to the last byte.
- `inject` and `mlperf` measure and do not judge; `judge` reads records and findings only; `show`
  reads the report only.
- Folders and modules import from those before them: targets, plan, report, inject, judge, mlperf,
  search, load, campaign, show.
"""
