//! The texts that go to the server: its own in `statements/postgres/`, and those of `statements/`
//! that both engines take.
//!
//! Keeps: each text is a file, read at compile time. `?` becomes `$1`, `{slot}` and `{journal}` a
//! table's number when a text is prepared, so that a file serves all slots.
//! Never: runs anything.
//! In: the other files of `postgres`; `session` prepares.

macro_rules! statements {
    ($($name:ident = $file:literal),* $(,)?; $($own:ident = $own_file:literal),* $(,)?) => {
        $(pub(super) const $name: &str = include_str!(concat!("../statements/", $file, ".sql"));)*
        $(pub(super) const $own: &str = include_str!(concat!("../statements/postgres/", $own_file, ".sql"));)*
        /// File name without `.sql`, and text, of every statement.
        #[cfg(test)]
        pub(super) const ALL: &[(&str, &str)] =
            &[$(($file, $name),)* $((concat!("postgres/", $own_file), $own),)*];
    };
}

statements! {
    BINDING_DELETE = "binding.delete",
    BINDING_DELETE_OF_VHOST = "binding.delete_of_vhost",
    BINDING_LIST = "binding.list",
    BINDING_PUT = "binding.put",
    DAMAGED_SEGMENT_INSERT = "damaged_segment.insert",
    DAMAGED_SEGMENT_LIST = "damaged_segment.list",
    DAMAGED_SEGMENT_PAGE = "damaged_segment.page",
    DEDUPLICATION_DROP = "deduplication.drop",
    DEDUPLICATION_LIST = "deduplication.list",
    EXCHANGE_DELETE = "exchange.delete",
    EXCHANGE_DELETE_OF_VHOST = "exchange.delete_of_vhost",
    EXCHANGE_LIST = "exchange.list",
    EXCHANGE_PUT = "exchange.put",
    FIRE_INSERT = "fire.insert",
    FIRE_PAGE = "fire.page",
    FIRE_RETIRE = "fire.retire",
    JOB_COUNT = "job.count",
    JOB_FORGET_RESULT = "job.forget_result",
    JOB_KEY_PAGE = "job_key.page",
    JOB_KEY_READ = "job_key.read",
    JOB_KEY_RETIRE = "job_key.retire",
    JOB_LIST = "job.list",
    JOB_LIST_IN_STATE = "job.list_in_state",
    JOB_LIST_OVERDUE = "job.list_overdue",
    JOB_READ = "job.read",
    JOB_RESULT_INSERT = "job_result.insert",
    JOB_RESULT_PAGE = "job_result.page",
    JOB_RESULT_READ = "job_result.read",
    JOB_RESULT_RETIRE = "job_result.retire",
    JOB_RETIRE = "job.retire",
    JOB_RETRY = "job.retry",
    JOB_START = "job.start",
    LIMIT_VALUE_DELETE = "limit_value.delete",
    LIMIT_VALUE_DELETE_OF_SUBJECT = "limit_value.delete_of_subject",
    LIMIT_VALUE_LIST = "limit_value.list",
    LIMIT_VALUE_PUT = "limit_value.put",
    PARAMETER_DELETE = "parameter.delete",
    PARAMETER_DELETE_OF_VHOST = "parameter.delete_of_vhost",
    PARAMETER_LIST = "parameter.list",
    PARAMETER_PUT = "parameter.put",
    PERMISSION_DELETE = "permission.delete",
    PERMISSION_DELETE_OF_USER = "permission.delete_of_user",
    PERMISSION_DELETE_OF_VHOST = "permission.delete_of_vhost",
    PERMISSION_LIST = "permission.list",
    PERMISSION_PUT = "permission.put",
    POLICY_DELETE = "policy.delete",
    POLICY_DELETE_OF_VHOST = "policy.delete_of_vhost",
    POLICY_LIST = "policy.list",
    POLICY_PUT = "policy.put",
    QUEUE_DELETE = "queue.delete",
    QUEUE_LIST = "queue.list",
    QUEUE_PUT = "queue.put",
    REDRIVE_DELETE = "redrive.delete",
    REDRIVE_LIST = "redrive.list",
    REDRIVE_PUT = "redrive.put",
    RETAINED_LIST = "retained.list",
    SCHEDULE_DELETE = "schedule.delete",
    SCHEDULE_LIST = "schedule.list",
    SCHEDULE_PUT = "schedule.put",
    TOPIC_PERMISSION_DELETE = "topic_permission.delete",
    TOPIC_PERMISSION_DELETE_OF_USER = "topic_permission.delete_of_user",
    TOPIC_PERMISSION_DELETE_OF_VHOST = "topic_permission.delete_of_vhost",
    TOPIC_PERMISSION_LIST = "topic_permission.list",
    TOPIC_PERMISSION_PUT = "topic_permission.put",
    USER_DELETE = "user.delete",
    USER_LIST = "user.list",
    USER_PUT = "user.put",
    VHOST_DELETE = "vhost.delete",
    VHOST_LIST = "vhost.list",
    VHOST_PUT = "vhost.put";
    DAMAGED_SEGMENT_KEEP = "damaged_segment.keep",
    DATABASE_BYTES = "database.bytes",
    DATABASE_CHECK = "database.check",
    DATABASE_END_OTHERS = "database.end_others",
    DEDUPLICATION_DELETE_OF_QUEUES = "deduplication.delete_of_queues",
    DEDUPLICATION_INSERT = "deduplication.insert",
    DEDUPLICATION_LIST_SMALL = "deduplication.list_small",
    DEDUPLICATION_MERGE = "deduplication.merge",
    JOB_FINISH = "job.finish",
    JOB_FINISHED = "job.finished",
    JOB_INSERT = "job.insert",
    JOB_KEY_CLAIM = "job_key.claim",
    JOURNAL_INSERT = "journal.insert",
    JOURNAL_LIST = "journal.list",
    JOURNAL_POSITION = "journal.position",
    JOURNAL_TRUNCATE = "journal.truncate",
    MIGRATION_CREATE = "migration.create",
    MIGRATION_EXISTS = "migration.exists",
    MIGRATION_INSERT = "migration.insert",
    MIGRATION_LIST = "migration.list",
    MIGRATION_LOCK = "migration.lock",
    MIGRATION_NEWEST = "migration.newest",
    OWNER_END_HOLDERS = "owner.end_holders",
    OWNER_FENCE = "owner.fence",
    OWNER_LOCK = "owner.lock",
    OWNER_READ = "owner.read",
    OWNER_RELEASE = "owner.release",
    OWNER_RENEW = "owner.renew",
    OWNER_TAKE = "owner.take",
    RETAINED_DELETE = "retained.delete",
    RETAINED_DELETE_OF_QUEUES = "retained.delete_of_queues",
    RETAINED_PUT = "retained.put",
    SEGMENT_INSERT = "segment.insert",
    SEGMENT_KEEP_WAITING = "segment.keep_waiting",
    SEGMENT_LIST = "segment.list",
    SEGMENT_MOVE = "segment.move",
    SEGMENT_READ = "segment.read",
    SEGMENT_READ_ANY = "segment.read_any",
    SLOT_TRUNCATE = "slot.truncate",
    WAITING_COUNT = "waiting.count",
    WAITING_DELETE = "waiting.delete",
    WAITING_DELETE_OF_QUEUES = "waiting.delete_of_queues",
    WAITING_INSERT = "waiting.insert",
    WAITING_LIST = "waiting.list",
    WAITING_MOVE = "waiting.move",
    WAITING_READ = "waiting.read",
    WAITING_READ_ANY = "waiting.read_any",
}

/// A statement, with the slot or journal that it is about, and the slot that rows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Text {
    pub(super) sql: &'static str,
    pub(super) slot: u8,
    pub(super) other: u8,
}

impl Text {
    pub(super) fn of_slot(sql: &'static str, slot: usize) -> Self {
        Self::moved(sql, slot, 0)
    }

    pub(super) fn moved(sql: &'static str, slot: usize, other: usize) -> Self {
        Self {
            sql,
            slot: slot as u8,
            other: other as u8,
        }
    }

    /// As the server takes it.
    pub(super) fn form(self) -> String {
        let text = self.sql.replace("{slot}", &format!("{:02}", self.slot));
        let text = text.replace("{journal}", &self.slot.to_string());
        numbered(&text.replace("{other}", &format!("{:02}", self.other)))
    }
}

impl From<&'static str> for Text {
    fn from(sql: &'static str) -> Self {
        Self::of_slot(sql, 0)
    }
}

/// `?` by its place, `?3` as `$3`.
fn numbered(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let (mut place, mut rest) = (0, text);
    while let Some((before, after)) = rest.split_once('?') {
        out.push_str(before);
        out.push('$');
        if !after.starts_with(|letter: char| letter.is_ascii_digit()) {
            place += 1;
            out.push_str(&place.to_string());
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_numbered_and_slots_named() {
        assert_eq!(numbered("a = ? and b = ?"), "a = $1 and b = $2");
        assert_eq!(numbered("?2 is null or c = ?2"), "$2 is null or c = $2");
        let text = Text::moved("insert into segment_{slot} from segment_{other}", 3, 12);
        assert_eq!(text.form(), "insert into segment_03 from segment_12");
        assert_eq!(
            Text::of_slot("truncate journal_{journal}", 1).form(),
            "truncate journal_1"
        );
    }
}
