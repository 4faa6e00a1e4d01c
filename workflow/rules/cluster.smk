"""A cluster: patience with one that does not answer, and an end for the jobs of a killed run."""

from mmfl import cluster

if workflow.is_main_process:
    try:
        cluster.prepare()
    except UserError as error:
        stop(error)


onstart:
    cluster.begin()
