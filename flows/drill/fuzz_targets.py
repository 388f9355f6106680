"""What reads files of other people."""

from flows.drill.fuzz_datasets import OF_DATASETS
from flows.drill.fuzz_networks import OF_NETWORKS

TARGETS = (*OF_DATASETS, *OF_NETWORKS)
