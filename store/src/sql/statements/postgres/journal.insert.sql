insert into journal_{journal} (
  position, epoch, number, slot, whole, last_queue_id, last_segment_id, head_queue, head_seq, handed_seq,
  next_seq, dropped_queue, dropped_segment, live_first, live_last, unsettled_segment, settled_segment,
  settled_queue, settled_bits
)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
