select
  position, epoch, number, slot, whole, last_queue_id, last_segment_id, head_queue, head_seq, handed_seq,
  next_seq, dropped_queue, dropped_segment, live_first, live_last, unsettled_segment, settled_segment,
  settled_queue, settled_bits
from journal_{journal}
order by position
