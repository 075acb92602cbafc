//! Time zones by name, from the data built into the binary. Pure.
//!
//! Keeps: every node of one release computes the same instants, whatever its host has installed.
//! Never: reads the host's zone or its files.
//! In: configuration and the schedules API.  Out: `jiff`'s `TimeZone`.

use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::expression::Invalid;

/// The zone of an IANA name, any case.
///
/// # Errors
/// `Invalid` with the field `zone`; its reason names the nearest known zone if one is close.
pub fn find(name: &str) -> Result<TimeZone, Invalid> {
    let database = TimeZoneDatabase::bundled();
    let found = database.get(name).ok().filter(|zone| !zone.is_unknown());
    found.ok_or_else(|| {
        let shown = if name.is_empty() { "\"\"" } else { name };
        Invalid::new(
            "zone",
            shown,
            match nearest(&database, name) {
                Some(near) => format!("is not a known zone; did you mean {near}?"),
                None => "is not a known zone; write an IANA name such as Europe/Berlin".to_owned(),
            },
        )
    })
}

fn nearest(database: &TimeZoneDatabase, name: &str) -> Option<String> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return None;
    }
    let wanted = name.to_ascii_lowercase().replace([' ', '-'], "_");
    let distance = |known: &str| {
        let known = known.to_ascii_lowercase();
        // `Berlin` alone is a frequent slip and far from `Europe/Berlin` in letters.
        if known.rsplit('/').next() == Some(wanted.as_str()) {
            return 0;
        }
        edits(&wanted, &known)
    };
    let known = database.available();
    let closest = known
        .map(|known| (distance(known.as_str()), known.as_str().to_owned()))
        .min()?;
    (closest.0 <= wanted.len() / 3).then_some(closest.1)
}

/// Insertions, deletions and substitutions between two short texts.
fn edits(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, to) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = substituted.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

/// No zone name comes near this; longer ones are not compared.
const NAME_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn zones_are_found_in_any_case() {
        for name in [
            "Europe/Berlin",
            "europe/berlin",
            "UTC",
            "utc",
            "America/New_York",
            "Etc/GMT+5",
        ] {
            assert!(find(name).is_ok(), "{name}");
        }
        assert_eq!(
            find("europe/berlin").unwrap().iana_name(),
            Some("Europe/Berlin")
        );
    }

    #[test]
    fn an_unknown_zone_names_the_nearest() {
        for (name, expected) in [
            (
                "Europe/Berlim",
                "zone: Europe/Berlim is not a known zone; did you mean Europe/Berlin?",
            ),
            (
                "Berlin",
                "zone: Berlin is not a known zone; did you mean Europe/Berlin?",
            ),
            (
                "America/New York",
                "zone: America/New York is not a known zone; did you mean America/New_York?",
            ),
            (
                "Mars/Olympus_Mons",
                "zone: Mars/Olympus_Mons is not a known zone; write an IANA name such as Europe/Berlin",
            ),
            (
                "",
                "zone: \"\" is not a known zone; write an IANA name such as Europe/Berlin",
            ),
        ] {
            assert_eq!(find(name).unwrap_err().to_string(), expected);
        }
    }
}
