//! The texts of `statements/`, and their forms for many rows at once.
//!
//! Keeps: each text is a file, read at compile time; only `Rows` derives a longer form from one.
//! Never: runs anything.
//! In: the other files of `sqlite` execute these; `contract.rs` prepares each one.

macro_rules! statements {
    ($($name:ident = $file:literal),* $(,)?) => {
        $(pub(super) const $name: &str = include_str!(concat!("../statements/", $file, ".sql"));)*
        /// File name without `.sql`, and text, of every statement.
        #[cfg(test)]
        pub(in crate::sql) const ALL: &[(&str, &str)] = &[$(($file, $name)),*];
    };
}

statements! {
    BINDING_DELETE = "binding.delete",
    BINDING_DELETE_OF_VHOST = "binding.delete_of_vhost",
    BINDING_LIST = "binding.list",
    BINDING_PUT = "binding.put",
    CHECKPOINT_MEASURE = "checkpoint.measure",
    CHECKPOINT_PASSIVE = "checkpoint.passive",
    CHECKPOINT_RESTART = "checkpoint.restart",
    CHECKPOINT_TRUNCATE = "checkpoint.truncate",
    DAMAGED_SEGMENT_INSERT = "damaged_segment.insert",
    DAMAGED_SEGMENT_KEEP = "damaged_segment.keep",
    DAMAGED_SEGMENT_LIST = "damaged_segment.list",
    DAMAGED_SEGMENT_PAGE = "damaged_segment.page",
    DEDUPLICATION_DELETE = "deduplication.delete",
    DEDUPLICATION_DELETE_OF_QUEUE = "deduplication.delete_of_queue",
    DEDUPLICATION_DROP = "deduplication.drop",
    DEDUPLICATION_INSERT = "deduplication.insert",
    DEDUPLICATION_LIST = "deduplication.list",
    DEDUPLICATION_LIST_SMALL = "deduplication.list_small",
    ENGINE_BACKUP = "engine.backup",
    ENGINE_CHECK = "engine.check",
    ENGINE_CLOSE = "engine.close",
    ENGINE_INTEGRITY = "engine.integrity",
    ENGINE_LAST_IDS = "engine.last_ids",
    ENGINE_MARK_QUEUE = "engine.mark_queue",
    ENGINE_MARK_SEGMENT = "engine.mark_segment",
    ENGINE_NUMBER = "engine.number",
    ENGINE_OPEN = "engine.open",
    ENGINE_PAGE_BYTES = "engine.page_bytes",
    ENGINE_PAGES = "engine.pages",
    ENGINE_READ_NUMBER = "engine.read_number",
    ENGINE_SCHEMA = "engine.schema",
    ENGINE_TABLES = "engine.tables",
    ENGINE_VERSION = "engine.version",
    ENGINE_WAS_CLEAN = "engine.was_clean",
    EXCHANGE_DELETE = "exchange.delete",
    EXCHANGE_DELETE_OF_VHOST = "exchange.delete_of_vhost",
    EXCHANGE_LIST = "exchange.list",
    EXCHANGE_PUT = "exchange.put",
    FIRE_INSERT = "fire.insert",
    FIRE_PAGE = "fire.page",
    FIRE_RETIRE = "fire.retire",
    HEAD_DELETE = "head.delete",
    HEAD_LIST = "head.list",
    HEAD_PUT = "head.put",
    JOB_COUNT = "job.count",
    JOB_FINISH = "job.finish",
    JOB_FORGET_RESULT = "job.forget_result",
    JOB_INSERT = "job.insert",
    JOB_LIST = "job.list",
    JOB_LIST_IN_STATE = "job.list_in_state",
    JOB_LIST_OVERDUE = "job.list_overdue",
    JOB_READ = "job.read",
    JOB_RETIRE = "job.retire",
    JOB_RETRY = "job.retry",
    JOB_START = "job.start",
    JOB_KEY_CLAIM = "job_key.claim",
    JOB_KEY_PAGE = "job_key.page",
    JOB_KEY_READ = "job_key.read",
    JOB_KEY_RETIRE = "job_key.retire",
    JOB_RESULT_INSERT = "job_result.insert",
    JOB_RESULT_PAGE = "job_result.page",
    JOB_RESULT_READ = "job_result.read",
    JOB_RESULT_RETIRE = "job_result.retire",
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
    RETAINED_DELETE = "retained.delete",
    RETAINED_DELETE_OF_QUEUE = "retained.delete_of_queue",
    RETAINED_LIST = "retained.list",
    RETAINED_PUT = "retained.put",
    SCHEDULE_DELETE = "schedule.delete",
    SCHEDULE_LIST = "schedule.list",
    SCHEDULE_PUT = "schedule.put",
    SEGMENT_DELETE = "segment.delete",
    SEGMENT_INSERT = "segment.insert",
    SEGMENT_KEEP_WAITING = "segment.keep_waiting",
    SEGMENT_LIST = "segment.list",
    SEGMENT_LIST_OF_QUEUE = "segment.list_of_queue",
    SEGMENT_READ = "segment.read",
    SETTLED_DELETE = "settled.delete",
    SETTLED_LIST = "settled.list",
    SETTLED_PUT = "settled.put",
    SYNCHRONOUS_FULL = "synchronous.full",
    SYNCHRONOUS_NORMAL = "synchronous.normal",
    SYNCHRONOUS_READ = "synchronous.read",
    TOPIC_PERMISSION_DELETE = "topic_permission.delete",
    TOPIC_PERMISSION_DELETE_OF_USER = "topic_permission.delete_of_user",
    TOPIC_PERMISSION_DELETE_OF_VHOST = "topic_permission.delete_of_vhost",
    TOPIC_PERMISSION_LIST = "topic_permission.list",
    TOPIC_PERMISSION_PUT = "topic_permission.put",
    TRANSACTION_BEGIN = "transaction.begin",
    TRANSACTION_BEGIN_READ = "transaction.begin_read",
    TRANSACTION_COMMIT = "transaction.commit",
    TRANSACTION_RELEASE = "transaction.release",
    TRANSACTION_ROLLBACK = "transaction.rollback",
    TRANSACTION_SAVEPOINT = "transaction.savepoint",
    USER_DELETE = "user.delete",
    USER_LIST = "user.list",
    USER_PUT = "user.put",
    VHOST_DELETE = "vhost.delete",
    VHOST_LIST = "vhost.list",
    VHOST_PUT = "vhost.put",
    WAITING_DELETE = "waiting.delete",
    WAITING_DELETE_OF_QUEUE = "waiting.delete_of_queue",
    WAITING_LIST = "waiting.list",
    WAITING_PUT = "waiting.put",
    WAITING_READ = "waiting.read",
}

/// Row counts that get a text of their own: few, so that all of them stay prepared.
const SIZES: [usize; 4] = [256, 64, 8, 1];

/// A statement for 1, 8, 64 or 256 rows: the line of the file that holds nothing but place holders
/// is repeated.
pub(super) struct Rows {
    texts: [String; SIZES.len()],
}

impl Rows {
    pub(super) fn new(text: &'static str) -> Self {
        Self {
            texts: SIZES.map(|rows| repeated(text, rows)),
        }
    }

    /// The largest form that `left` rows fill. `left` is not 0.
    pub(super) fn filled_by(&self, left: usize) -> (usize, &str) {
        let at = SIZES
            .iter()
            .position(|size| *size <= left)
            .unwrap_or(SIZES.len() - 1);
        (SIZES[at], &self.texts[at])
    }

    /// The smallest form with room for `left` rows, or the largest there is. The caller repeats its
    /// last row in the places left over.
    pub(super) fn with_room_for(&self, left: usize) -> (usize, &str) {
        let at = SIZES.iter().rposition(|size| *size >= left).unwrap_or(0);
        (SIZES[at], &self.texts[at])
    }
}

fn repeated(text: &str, rows: usize) -> String {
    let mut out = String::with_capacity(text.len() + rows * 24);
    for line in text.lines() {
        if line.contains('?') && line.chars().all(|c| "?(), ".contains(c)) {
            out.push_str(&vec![line; rows].join(",\n"));
        } else {
            out.push_str(line);
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_place_holder_line_is_repeated() {
        assert_eq!(
            repeated(
                "insert into t (a)\nvalues\n  (?, ?)\non conflict (a) do nothing",
                2
            ),
            "insert into t (a)\nvalues\n  (?, ?),\n  (?, ?)\non conflict (a) do nothing\n"
        );
    }

    #[test]
    fn forms_cover_every_count() {
        let rows = Rows::new(SEGMENT_DELETE);
        for (left, filled, room) in [
            (1, 1, 1),
            (7, 1, 8),
            (8, 8, 8),
            (65, 64, 256),
            (999, 256, 256),
        ] {
            assert_eq!(rows.filled_by(left).0, filled);
            assert_eq!(rows.with_room_for(left).0, room);
        }
    }
}
