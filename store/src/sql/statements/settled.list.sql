select segment_id, bits from settled order by segment_id
