//! Lists by pages: `limit` and `cursor` in, `next_cursor` out, the same way for every list.
//!
//! Keeps: a walk by cursors meets each entry that stays exactly once, whatever comes and goes
//! meanwhile, for a cursor names a place in the list's order and no count of entries.
//! Never: guesses; a limit or a cursor that is none is refused, with what is allowed.
//! In: every route that answers with a list.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use utoipa::IntoParams;

use super::problem::{Kind, Problem};

/// Entries on a page when nothing is said: a batch for a program, and still one screen's scroll.
pub(super) const LIMIT_DEFAULT: u32 = 100;
/// Entries on a page at most: beyond, a request's own cost is small against theirs, and a page
/// keeps other requests waiting for longer.
pub(super) const LIMIT_MAX: u32 = 1_000;

/// Whose places a cursor names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    Messages,
    Jobs,
    Redrives,
    Schedules,
}

impl List {
    /// Before the place, so that one list's cursor is none of another's.
    fn mark(self) -> char {
        match self {
            Self::Messages => 'm',
            Self::Jobs => 'j',
            Self::Redrives => 'r',
            Self::Schedules => 's',
        }
    }

    /// The cursor that names a place.
    pub(super) fn cursor(self, place: &str) -> String {
        URL_SAFE_NO_PAD.encode(format!("{}{place}", self.mark()))
    }

    /// The place that a cursor names.
    ///
    /// # Errors
    /// 400 when it is none of this list.
    pub(super) fn place(self, cursor: Option<&str>) -> Result<Option<String>, Problem> {
        let Some(text) = cursor else {
            return Ok(None);
        };
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let place = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let place = place.and_then(|place| Some(place.strip_prefix(self.mark())?.to_owned()));
        place.ok_or_else(|| refused(text)).map(Some)
    }
}

/// A cursor that names no place.
pub(super) fn refused(cursor: &str) -> Problem {
    let detail = format!(
        "cursor: '{cursor}' is not a next_cursor of this list; without one it begins at the front"
    );
    Problem::new(Kind::Validation, detail)
}

/// How many entries are asked for.
///
/// # Errors
/// 400 beyond 1 to `LIMIT_MAX`, or when it is no number.
pub(super) fn limit(given: Option<&str>) -> Result<u32, Problem> {
    let Some(text) = given else {
        return Ok(LIMIT_DEFAULT);
    };
    let number = text.parse().ok();
    number
        .filter(|number| (1..=LIMIT_MAX).contains(number))
        .ok_or_else(|| {
            let detail = format!("limit: '{text}' is not within 1 to {LIMIT_MAX}");
            Problem::new(Kind::Validation, detail)
        })
}

/// Which page of a list that has no other conditions.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// `next_cursor` of the page before.
    pub(super) cursor: Option<String>,
    /// 1 to 1000; 100 when not given.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    pub(super) limit: Option<String>,
}

impl Wanted {
    /// The place after which the page begins, and how many entries it may have.
    ///
    /// # Errors
    /// 400, as `List::place` and `limit`.
    pub(super) fn of(&self, list: List) -> Result<(Option<String>, usize), Problem> {
        let limit = limit(self.limit.as_deref())?;
        Ok((list.place(self.cursor.as_deref())?, limit as usize))
    }
}

/// Cuts a page out of entries of which one more than a page was asked for. `place` names an
/// entry's place; the answer is the cursor behind the last entry, none at the end of the list.
pub(super) fn cut<T>(
    list: List,
    entries: &mut Vec<T>,
    limit: usize,
    place: impl Fn(&T) -> String,
) -> Option<String> {
    let has_more = entries.len() > limit;
    entries.truncate(limit);
    let last = entries.last().filter(|_| has_more);
    last.map(|entry| list.cursor(&place(entry)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_known_again_by_its_own_list_only() {
        let cursor = List::Jobs.cursor("some: place/ü");
        let found = List::Jobs.place(Some(&cursor)).ok().flatten();
        assert_eq!(found.as_deref(), Some("some: place/ü"));
        assert!(List::Messages.place(Some(&cursor)).is_err());
        assert!(List::Jobs.place(None).is_ok_and(|place| place.is_none()));
        for wrong in ["", "!", "ag==", &cursor[1..]] {
            assert!(List::Jobs.place(Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_page_has_a_cursor_when_there_is_more() {
        let mut three = vec!["a", "b", "c"];
        let next = cut(List::Redrives, &mut three, 2, |entry| (*entry).into());
        assert_eq!(three, ["a", "b"]);
        assert_eq!(next, Some(List::Redrives.cursor("b")));
        assert_eq!(cut(List::Redrives, &mut three, 2, |_| "x".into()), None);
        let mut none: Vec<String> = Vec::new();
        assert_eq!(cut(List::Redrives, &mut none, 2, String::clone), None);
    }
}
