select 1 from job where id = $1 and state = $2 and completed_at = $3
