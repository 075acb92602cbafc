//! What operators do with a whole store: count, check, copy. On any engine, through the seam.
//!
//! Keeps: memory holds what a start would (definitions, headers) and one segment at a time.
//! Never: changes the store it looks at; knows an engine.
//! In: `leveret store …`, on a `Backend` from `sql::place`.

use std::collections::HashMap;

use crate::model::*;
use crate::sql::Image;

pub mod copy;
pub mod count;
#[cfg(test)]
mod fixture;
pub mod verify;

/// How queues are called, by number.
struct Names(HashMap<QueueId, (String, String)>);

impl Names {
    fn of(image: &Image) -> Self {
        let rows = image.queues.iter();
        let name = |row: &QueueSpec| (row.id, (row.vhost.to_string(), row.name.to_string()));
        Self(rows.map(name).collect())
    }

    fn get(&self, id: QueueId) -> Option<(String, String)> {
        self.0.get(&id).cloned()
    }
}

/// True when the bit of the `at`-th message of a segment is set.
fn is_set(bits: Option<&[u8]>, at: u64) -> bool {
    let byte = usize::try_from(at / 8)
        .ok()
        .and_then(|place| bits?.get(place));
    byte.is_some_and(|byte| byte & (1 << (at % 8)) != 0)
}

/// Jobs, claims, results and fires read at a time.
const PAGE: u32 = 256;
/// Waiting rows read at a time: some megabytes.
const ROWS_TOGETHER: usize = 256;
