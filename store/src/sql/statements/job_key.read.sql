select scope, job_id, fingerprint, expires_at
from job_key
where scope = ?1 and expires_at > ?2
