"""Turn a source into a workload image: erofs, encryption, dm-verity; the cache."""
