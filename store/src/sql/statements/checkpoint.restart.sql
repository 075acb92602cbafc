pragma wal_checkpoint(restart)
