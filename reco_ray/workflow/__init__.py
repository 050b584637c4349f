"""The workflow: a configuration comes in, finished outputs of each step go out; jobs and the command line call it.

`graph` knows order and freshness, `steps` the bodies, which call the rooms; no other room knows of another's files.
"""

from reco_ray.workflow.graph import Output, run_all, run_one
from reco_ray.workflow.steps import STEPS
from reco_ray.workflow.tuning import tune_ranker

__all__ = ["STEPS", "Output", "run_all", "run_one", "tune_ranker"]
