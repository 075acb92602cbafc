insert into job_key (scope, job_id, claimed_at, expires_at, fingerprint)
values (?, ?, ?, ?, ?)
on conflict (scope) do update set
  job_id = excluded.job_id,
  claimed_at = excluded.claimed_at,
  expires_at = excluded.expires_at,
  fingerprint = excluded.fingerprint
where job_key.expires_at <= excluded.claimed_at
