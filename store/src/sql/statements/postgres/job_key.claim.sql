with claimed as (
  insert into job_key (scope, job_id, claimed_at, expires_at, fingerprint)
  values ($1, $2, $3, $4, $5)
  on conflict (scope) do update set
    job_id = excluded.job_id,
    claimed_at = excluded.claimed_at,
    expires_at = excluded.expires_at,
    fingerprint = excluded.fingerprint
  where job_key.expires_at <= excluded.claimed_at
  returning 1
)
select 1 / count(*) from claimed
