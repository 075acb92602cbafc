select
  current_setting('server_version_num')::bigint,
  current_setting('server_version'),
  pg_is_in_recovery(),
  current_setting('fsync') = 'on',
  current_setting('synchronous_commit'),
  current_setting('synchronous_standby_names'),
  pg_backend_pid()::bigint,
  current_setting('server_encoding')
