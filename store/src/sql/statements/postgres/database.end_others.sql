select pg_terminate_backend(pid)
from pg_stat_activity
where usename = current_user and datname = current_database() and application_name = $1 and pid <> pg_backend_pid()
