select pg_terminate_backend(activity.pid)
from pg_stat_activity as activity
join pg_locks as held on held.pid = activity.pid
where held.relation = 'owner'::regclass
  and held.mode = 'RowShareLock'
  and activity.pid <> pg_backend_pid()
  and activity.usename = current_user
