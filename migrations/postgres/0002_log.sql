-- The queues' logs: segments, and messages that wait on their own, in slots; heads and what is
-- settled, in the journal.
--
-- Against SQLite's twin: nothing here is ever updated. A row that a reader's snapshot pins cannot
-- be reclaimed, so rows go into a slot (`segment_NN` and `waiting_NN`), a slot that is filled
-- rests, and one of which nothing is needed any more is truncated. What a commit changes beside
-- (heads, settled messages, segments that are gone) is one line of `journal_N`; when that is long,
-- the other begins with all that still holds, and the first is truncated.
-- docs/adr/0006-postgresql.md has the measurements.

create table segment_00 (
  id bigint primary key,
  queue_id bigint not null,
  first_seq bigint not null,
  last_seq bigint not null,
  count bigint not null,
  bytes bigint not null check (bytes >= 0),
  transient boolean not null,
  first_at bigint not null,
  last_at bigint not null,
  content_index bytea not null,
  content bytea not null,
  check (count between 1 and last_seq - first_seq + 1)
);

alter table segment_00
  alter column content_index set storage external,
  alter column content set storage external;

create table waiting_00 (
  queue_id bigint not null,
  seq bigint not null,
  due_at bigint not null,
  attempt bigint not null check (attempt >= 0),
  content_index bytea not null,
  content bytea not null,
  primary key (queue_id, seq)
);

alter table waiting_00
  alter column content_index set storage external,
  alter column content set storage external;

create table segment_01 (like segment_00 including all);
create table segment_02 (like segment_00 including all);
create table segment_03 (like segment_00 including all);
create table segment_04 (like segment_00 including all);
create table segment_05 (like segment_00 including all);
create table segment_06 (like segment_00 including all);
create table segment_07 (like segment_00 including all);
create table segment_08 (like segment_00 including all);
create table segment_09 (like segment_00 including all);
create table segment_10 (like segment_00 including all);
create table segment_11 (like segment_00 including all);
create table segment_12 (like segment_00 including all);
create table segment_13 (like segment_00 including all);
create table segment_14 (like segment_00 including all);
create table segment_15 (like segment_00 including all);

create table waiting_01 (like waiting_00 including all);
create table waiting_02 (like waiting_00 including all);
create table waiting_03 (like waiting_00 including all);
create table waiting_04 (like waiting_00 including all);
create table waiting_05 (like waiting_00 including all);
create table waiting_06 (like waiting_00 including all);
create table waiting_07 (like waiting_00 including all);
create table waiting_08 (like waiting_00 including all);
create table waiting_09 (like waiting_00 including all);
create table waiting_10 (like waiting_00 including all);
create table waiting_11 (like waiting_00 including all);
create table waiting_12 (like waiting_00 including all);
create table waiting_13 (like waiting_00 including all);
create table waiting_14 (like waiting_00 including all);
create table waiting_15 (like waiting_00 including all);

-- A line per commit. `number` counts the commits of one owner, `position` those of all; `slot` is
-- where it put its segments. With `whole`, nothing of the lines before counts, and of the segments
-- up to `last_segment_id` only those in the ranges `live_first` to `live_last` are there.
create table journal_0 (
  position bigint not null,
  epoch bigint not null,
  number bigint not null,
  slot bigint not null,
  whole boolean not null,
  last_queue_id bigint not null,
  last_segment_id bigint not null,
  head_queue bigint[] not null,
  head_seq bigint[] not null,
  handed_seq bigint[] not null,
  next_seq bigint[] not null,
  dropped_queue bigint[] not null,
  dropped_segment bigint[] not null,
  live_first bigint[] not null,
  live_last bigint[] not null,
  unsettled_segment bigint[] not null,
  settled_segment bigint[] not null,
  settled_queue bigint[] not null,
  settled_bits bytea[] not null
);

alter table journal_0
  alter column head_queue set storage external,
  alter column head_seq set storage external,
  alter column handed_seq set storage external,
  alter column next_seq set storage external,
  alter column dropped_queue set storage external,
  alter column dropped_segment set storage external,
  alter column live_first set storage external,
  alter column live_last set storage external,
  alter column unsettled_segment set storage external,
  alter column settled_segment set storage external,
  alter column settled_queue set storage external,
  alter column settled_bits set storage external;

create table journal_1 (like journal_0 including all);

-- All segments that stand in a slot, needed or not: for people.
create view segment as
select 0 as slot, * from segment_00
union all
select 1 as slot, * from segment_01
union all
select 2 as slot, * from segment_02
union all
select 3 as slot, * from segment_03
union all
select 4 as slot, * from segment_04
union all
select 5 as slot, * from segment_05
union all
select 6 as slot, * from segment_06
union all
select 7 as slot, * from segment_07
union all
select 8 as slot, * from segment_08
union all
select 9 as slot, * from segment_09
union all
select 10 as slot, * from segment_10
union all
select 11 as slot, * from segment_11
union all
select 12 as slot, * from segment_12
union all
select 13 as slot, * from segment_13
union all
select 14 as slot, * from segment_14
union all
select 15 as slot, * from segment_15;
