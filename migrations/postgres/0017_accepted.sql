-- When a message that waits was accepted: its due time and its row change with every attempt.

alter table waiting_00 add column accepted_at bigint not null default 0;
alter table waiting_01 add column accepted_at bigint not null default 0;
alter table waiting_02 add column accepted_at bigint not null default 0;
alter table waiting_03 add column accepted_at bigint not null default 0;
alter table waiting_04 add column accepted_at bigint not null default 0;
alter table waiting_05 add column accepted_at bigint not null default 0;
alter table waiting_06 add column accepted_at bigint not null default 0;
alter table waiting_07 add column accepted_at bigint not null default 0;
alter table waiting_08 add column accepted_at bigint not null default 0;
alter table waiting_09 add column accepted_at bigint not null default 0;
alter table waiting_10 add column accepted_at bigint not null default 0;
alter table waiting_11 add column accepted_at bigint not null default 0;
alter table waiting_12 add column accepted_at bigint not null default 0;
alter table waiting_13 add column accepted_at bigint not null default 0;
alter table waiting_14 add column accepted_at bigint not null default 0;
alter table waiting_15 add column accepted_at bigint not null default 0;

create view waiting as
select 0 as slot, queue_id, seq, due_at, attempt, accepted_at, content_index, content
from waiting_00
union all
select 1 as slot, queue_id, seq, due_at, attempt, accepted_at, content_index, content
from waiting_01
union all
select 2 as slot, queue_id, seq, due_at, attempt, accepted_at, content_index, content
from waiting_02
union all
select 3 as slot, queue_id, seq, due_at, attempt, accepted_at, content_index, content
from waiting_03
union all
select 4 as slot, queue_id, seq, due_at, attempt, accepted_at, content_index, content
from waiting_04
union all
select 5 as slot, queue_id, seq, due_at, attempt, accepted_at, content_index, content
from waiting_05
union all
select 6 as slot, queue_id, seq, due_at, attempt, accepted_at, content_index, content
from waiting_06
union all
select 7 as slot, queue_id, seq, due_at, attempt, accepted_at, content_index, content
from waiting_07
union all
select 8 as slot, queue_id, seq, due_at, attempt, accepted_at, content_index, content
from waiting_08
union all
select 9 as slot, queue_id, seq, due_at, attempt, accepted_at, content_index, content
from waiting_09
union all
select 10 as slot, queue_id, seq, due_at, attempt, accepted_at, content_index, content
from waiting_10
union all
select 11 as slot, queue_id, seq, due_at, attempt, accepted_at, content_index, content
from waiting_11
union all
select 12 as slot, queue_id, seq, due_at, attempt, accepted_at, content_index, content
from waiting_12
union all
select 13 as slot, queue_id, seq, due_at, attempt, accepted_at, content_index, content
from waiting_13
union all
select 14 as slot, queue_id, seq, due_at, attempt, accepted_at, content_index, content
from waiting_14
union all
select 15 as slot, queue_id, seq, due_at, attempt, accepted_at, content_index, content
from waiting_15;
