select scope, job_id, fingerprint, expires_at, claimed_at
from job_key
where scope > ?1
order by scope
limit ?2
