delete from waiting_{slot} as waits
using unnest($1::bigint[], $2::bigint[]) as gone (queue_id, seq)
where waits.queue_id = gone.queue_id and waits.seq = gone.seq
