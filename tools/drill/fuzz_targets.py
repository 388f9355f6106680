"""What reads files of other people."""

from tools.drill.fuzz_datasets import OF_DATASETS
from tools.drill.fuzz_networks import OF_NETWORKS

TARGETS = (*OF_DATASETS, *OF_NETWORKS)
