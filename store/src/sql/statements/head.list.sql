select queue_id, head_seq, handed_seq, next_seq from head order by queue_id
