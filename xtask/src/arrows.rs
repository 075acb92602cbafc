//! `cargo xtask arrows`: which crate may depend on which.
//!
//! Keeps: a room uses rooms to its left only; some outside crates have one owner.
//! Never: looks at source text; `tidy` does.
//! In: `main`, `ci`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process;

/// Each member of the workspace and the members that it may use:
/// `amqp ← store ← scheduler ← gateway`.
/// The tests and the bench speak to the product over sockets and link none of it.
const ROOMS: &[(&str, &[&str])] = &[
    ("amqp", &[]),
    ("store", &["amqp"]),
    ("scheduler", &["store"]),
    ("gateway", &["amqp", "store", "scheduler"]),
    ("tests", &[]),
    ("bench", &[]),
    ("xtask", &[]),
];

/// Everything that these members may name; a longer list wants a decision (docs/adr).
const ALLOWED: &[(&str, &[&str])] = &[
    ("amqp", &["amq-protocol", "bytes", "thiserror"]),
    ("xtask", &["anyhow", "clap", "serde_json"]),
];

/// Outside crates that only these members may name.
const OWNED: &[(&str, &[&str])] = &[
    ("sqlx", &["store"]),
    ("tokio-postgres", &["store", "bench"]),
    ("tokio-postgres-rustls", &["store"]),
    ("libsqlite3-sys", &["store"]),
    ("regex", &["store"]),
    ("axum", &["gateway"]),
    ("tower", &["gateway"]),
    ("tower-http", &["gateway"]),
    ("utoipa", &["gateway"]),
    ("utoipa-axum", &["gateway"]),
    ("metrics-exporter-prometheus", &["gateway"]),
    ("mimalloc", &["gateway"]),
    ("tracing-subscriber", &["gateway"]),
    ("toml", &["gateway"]),
    ("socket2", &["gateway"]),
    // The store is a client of its database.
    ("rustls", &["gateway", "store"]),
    ("tokio-rustls", &["gateway"]),
    ("x509-cert", &["gateway"]),
    ("hyper", &["gateway"]),
    ("hyper-util", &["gateway"]),
    ("croner", &["scheduler"]),
    ("amq-protocol", &["amqp", "gateway"]),
    ("lapin", &["tests"]),
    ("hdrhistogram", &["bench"]),
    ("anyhow", &["gateway", "tests", "bench", "xtask"]),
    ("clap", &["gateway", "bench", "xtask"]),
];

/// What must not be reached from a member over any path.
const UNREACHABLE: &[(&str, &[&str])] = &[("amqp", &["tokio", "sqlx", "mio", "chrono"])];

/// Prints what breaks a rule.
///
/// # Errors
/// Something does, or cargo gives no metadata.
pub(crate) fn run() -> Result<()> {
    let metadata = ["metadata", "--format-version", "1", "--locked", "--no-deps"];
    let metadata = process::output(&mut process::command("cargo", &metadata))?;
    let mut broken = broken(&named(&serde_json::from_str(&metadata)?)?);
    for (member, far) in UNREACHABLE {
        // Alone, as a user of this crate has it: the workspace's features are not its own.
        let tree = [
            "tree",
            "--locked",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--package",
            member,
        ];
        broken.extend(reached(
            member,
            far,
            &process::output(&mut process::command("cargo", &tree))?,
        ));
    }
    for line in &broken {
        println!("arrows: {line}");
    }
    match broken.len() {
        0 => Ok(()),
        count => bail!("{count} arrows point the wrong way"),
    }
}

/// Each member and what it names, but for its tests.
type Named = BTreeMap<String, BTreeSet<String>>;

fn named(metadata: &Value) -> Result<Named> {
    let mut all = Named::new();
    for package in list(metadata, "packages")? {
        let used = list(package, "dependencies")?.iter();
        let used = used.filter(|one| one["kind"].as_str() != Some("dev"));
        let used = used.map(|one| text(one, "name").map(str::to_owned));
        all.insert(
            text(package, "name")?.to_owned(),
            used.collect::<Result<_>>()?,
        );
    }
    Ok(all)
}

fn broken(named: &Named) -> Vec<String> {
    let mut lines = Vec::new();
    let rooms: BTreeMap<_, _> = ROOMS.iter().copied().collect();
    for (member, used) in named {
        let Some(allowed) = rooms.get(member.as_str()) else {
            lines.push(format!(
                "{member} has no place among the rooms of xtask/src/arrows.rs"
            ));
            continue;
        };
        for room in used.iter().filter(|name| rooms.contains_key(name.as_str())) {
            if !allowed.contains(&room.as_str()) {
                lines.push(format!("{member} may not use {room}"));
            }
        }
        lines.extend(foreign(member, used));
    }
    lines
}

/// Outside crates that this member may not name.
fn foreign(member: &str, used: &BTreeSet<String>) -> Vec<String> {
    let mut lines = Vec::new();
    for name in used {
        let owners = OWNED
            .iter()
            .find(|(owned, _)| owned == name)
            .map(|(_, owners)| *owners);
        if let Some(owners) = owners.filter(|owners| !owners.contains(&member)) {
            lines.push(format!(
                "{member} may not use {name}, which is for {}",
                owners.join(", ")
            ));
        }
        let allowed = ALLOWED.iter().find(|(room, _)| *room == member);
        if allowed.is_some_and(|(_, allowed)| !allowed.contains(&name.as_str())) {
            lines.push(format!(
                "{member} may not use {name}: it is not on its list"
            ));
        }
    }
    lines
}

/// Crates among `far` that the output of `cargo tree` names.
fn reached(member: &str, far: &[&str], tree: &str) -> Vec<String> {
    let names: BTreeSet<_> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    let found = far.iter().filter(|name| names.contains(**name));
    found
        .map(|name| format!("{member} reaches {name}"))
        .collect()
}

fn list<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    value[key]
        .as_array()
        .with_context(|| format!("cargo metadata has no list {key}"))
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value[key]
        .as_str()
        .with_context(|| format!("cargo metadata has no text {key}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    /// `members` are (name, dependencies, dev-dependencies).
    fn broken_in(members: &[(&str, &[&str], &[&str])]) -> Vec<String> {
        let packages = members.iter().map(|(name, normal, dev)| {
            let normal = normal.iter().map(|one| json!({"name": one, "kind": null}));
            let dev = dev.iter().map(|one| json!({"name": one, "kind": "dev"}));
            json!({"name": name, "dependencies": normal.chain(dev).collect::<Vec<_>>()})
        });
        broken(&named(&json!({"packages": packages.collect::<Vec<_>>()})).unwrap())
    }

    #[test]
    fn an_arrow_to_the_left_is_fine() {
        let store = ("store", &["amqp", "sqlx"][..], &[][..]);
        assert_eq!(
            broken_in(&[store, ("amqp", &["bytes"], &["proptest"])]),
            [""; 0]
        );
    }

    #[test]
    fn an_arrow_to_the_right_is_named() {
        let told = broken_in(&[("store", &["gateway"], &[]), ("gateway", &[], &[])]);
        assert_eq!(told, ["store may not use gateway"]);
    }

    #[test]
    fn a_crate_with_an_owner_is_refused_elsewhere() {
        let told = broken_in(&[("gateway", &["sqlx"], &[])]);
        assert_eq!(told, ["gateway may not use sqlx, which is for store"]);
    }

    #[test]
    fn what_is_not_on_the_list_is_refused_but_not_for_tests() {
        let told = broken_in(&[("amqp", &["serde"], &["tokio"])]);
        assert_eq!(told, ["amqp may not use serde: it is not on its list"]);
    }

    #[test]
    fn a_far_crate_is_seen_over_another() {
        let tree = "amqp v0.1.0 (/x/amqp)\nasync-rs v0.8.0\ntokio v1.54.1\n";
        assert_eq!(
            reached("amqp", &["tokio", "async"], tree),
            ["amqp reaches tokio"]
        );
    }

    #[test]
    fn a_new_member_needs_a_place() {
        assert!(broken_in(&[("extra", &[], &[])])[0].starts_with("extra has no place"));
    }
}
