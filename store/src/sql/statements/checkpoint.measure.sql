pragma wal_checkpoint(noop)
