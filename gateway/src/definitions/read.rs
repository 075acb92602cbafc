//! From RabbitMQ's file to the store's rows.
//!
//! Keeps: every error names the object; unknown keys are left out, as RabbitMQ does.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};
use store::administration::{Definitions, ExchangeDefinition, QueueDefinition};
use store::definitions::{ExchangeDeclare, QueueDeclare};
use store::model::*;
use store::password;

use super::{Invalid, NAME_MAX, to_sound_table};

/// Reads a whole file. Objects that name no vhost, as in a file of one vhost, belong to `vhost`.
///
/// # Errors
/// The first object that cannot be read.
pub fn read(text: &str, vhost: Option<&str>) -> Result<Definitions, Invalid> {
    let invalid = |error: serde_json::Error| Invalid(error.to_string());
    let whole: Map<String, Json> = serde_json::from_str(text).map_err(invalid)?;
    let file = File::deserialize(Json::Object(whole)).map_err(invalid)?;
    let reader = Reader {
        vhost,
        old_hashes: file.rabbit_version.as_deref().is_some_and(is_before_3_6),
    };
    let mut out = Definitions::default();
    each("vhost", &file.vhosts, |row| reader.vhost(row, &mut out))?;
    each("user", &file.users, |row| reader.user(row, &mut out))?;
    each("permission", &file.permissions, |row| {
        reader.permission(row, &mut out)
    })?;
    each("topic permission", &file.topic_permissions, |row| {
        reader.topic_permission(row, &mut out)
    })?;
    each("parameter", &file.parameters, |row| {
        reader.parameter(row, &mut out)
    })?;
    each("global parameter", &file.global_parameters, |row| {
        reader.global(row, &mut out)
    })?;
    each("policy", &file.policies, |row: Policy| {
        let spec = reader.policy(PolicyKind::User, row)?;
        out.policies.push(spec);
        Ok(())
    })?;
    each("exchange", &file.exchanges, |row| {
        reader.exchange(row, &mut out)
    })?;
    each("queue", &file.queues, |row| reader.queue(row, &mut out))?;
    each("binding", &file.bindings, |row| {
        reader.binding(row, &mut out)
    })?;
    Ok(out)
}

/// Such files have MD5 hashes and do not say so.
fn is_before_3_6(version: &str) -> bool {
    let mut parts = version
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let release = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    release < (3, 6) && release > (0, 0)
}

/// Reads each object; an error is led by its kind, its place and its name.
fn each<T: DeserializeOwned>(
    kind: &str,
    rows: &[Json],
    mut read: impl FnMut(T) -> Result<(), String>,
) -> Result<(), Invalid> {
    for (at, row) in rows.iter().enumerate() {
        if !row.is_object() {
            return Err(Invalid(format!("{kind} number {}: is no object", at + 1)));
        }
        let done = T::deserialize(row)
            .map_err(|error| error.to_string())
            .and_then(&mut read);
        done.map_err(|reason| {
            let names = ["name", "source", "user"].map(|key| row.get(key).and_then(Json::as_str));
            let name = names.into_iter().flatten().next().unwrap_or("");
            Invalid(format!("{kind} '{name}' (number {}): {reason}", at + 1))
        })?;
    }
    Ok(())
}

struct Reader<'a> {
    vhost: Option<&'a str>,
    old_hashes: bool,
}

impl Reader<'_> {
    fn place(&self, given: Option<String>) -> Result<Arc<str>, String> {
        let place = given.as_deref().or(self.vhost);
        place
            .map(Arc::from)
            .ok_or_else(|| "it names no vhost, and none was given for the whole file".into())
    }

    fn vhost(&self, row: Vhost, out: &mut Definitions) -> Result<(), String> {
        let meta = row.metadata;
        let name: Arc<str> = row.name.into();
        out.vhosts.push(VhostSpec {
            name: name.clone(),
            description: row.description.or(meta.description).unwrap_or_default(),
            tags: row.tags.or(meta.tags).unwrap_or_default().joined(),
            default_queue_type: row
                .default_queue_type
                .or(meta.default_queue_type)
                .filter(|kind| kind != "undefined")
                .unwrap_or_default(),
        });
        // RabbitMQ writes an empty list for none.
        if let Some(limits) = row.limits.as_object() {
            put_limits(LimitOf::Vhost, &name, limits, out)?;
        }
        Ok(())
    }

    fn user(&self, row: User, out: &mut Definitions) -> Result<(), String> {
        let hashing = row.hashing_algorithm.unwrap_or_else(|| {
            let usual = if self.old_hashes {
                password::MD5
            } else {
                password::SHA256
            };
            usual.into()
        });
        let (password_hash, hashing) = match (row.password_hash, row.password) {
            (Some(hash), _) => (hash, hashing),
            (None, Some(text)) => (password::hash(&text), password::SHA256.into()),
            (None, None) => (String::new(), hashing),
        };
        if STANDARD.decode(&password_hash).is_err() {
            return Err("its password hash is not base64".into());
        }
        let name: Arc<str> = row.name.into();
        out.users.push(UserSpec {
            name: name.clone(),
            password_hash,
            hashing,
            tags: row.tags.joined(),
        });
        match row.limits.as_object() {
            Some(limits) => put_limits(LimitOf::User, &name, limits, out),
            None => Ok(()),
        }
    }

    fn permission(&self, row: Permission, out: &mut Definitions) -> Result<(), String> {
        out.permissions.push(PermissionSpec {
            vhost: self.place(row.vhost)?,
            user: row.user.into(),
            configure: row.configure,
            write: row.write,
            read: row.read,
        });
        Ok(())
    }

    fn topic_permission(&self, row: TopicPermission, out: &mut Definitions) -> Result<(), String> {
        out.topic_permissions.push(TopicPermissionSpec {
            vhost: self.place(row.vhost)?,
            user: row.user.into(),
            exchange: row.exchange.into(),
            write: row.write,
            read: row.read,
        });
        Ok(())
    }

    /// RabbitMQ keeps operator policies and limits of vhosts as parameters.
    fn parameter(&self, row: Parameter, out: &mut Definitions) -> Result<(), String> {
        let kind = match &*row.component {
            "operator_policy" => Some(PolicyKind::Operator),
            "policy" => Some(PolicyKind::User),
            _ => None,
        };
        if let Some(kind) = kind {
            let mut policy = Policy::deserialize(&row.value).map_err(|error| error.to_string())?;
            (policy.name, policy.vhost) = (row.name, row.vhost);
            out.policies.push(self.policy(kind, policy)?);
            return Ok(());
        }
        let vhost = self.place(row.vhost)?;
        if row.component == "vhost-limits" {
            let limits = row.value.as_object().ok_or("its value is no object")?;
            return put_limits(LimitOf::Vhost, &vhost, limits, out);
        }
        out.parameters.push(ParameterSpec {
            vhost,
            component: row.component.into(),
            name: row.name.into(),
            value: row.value.to_string(),
        });
        Ok(())
    }

    fn global(&self, row: Global, out: &mut Definitions) -> Result<(), String> {
        out.parameters.push(ParameterSpec {
            vhost: "".into(),
            component: "".into(),
            name: row.name.into(),
            value: row.value.to_string(),
        });
        Ok(())
    }

    fn policy(&self, kind: PolicyKind, row: Policy) -> Result<PolicySpec, String> {
        let apply_to = row.apply_to.as_deref().unwrap_or("all");
        let apply_to = ApplyTo::parse(apply_to)
            .ok_or_else(|| format!("'{apply_to}' is nothing that a policy applies to"))?;
        Ok(PolicySpec {
            kind,
            vhost: self.place(row.vhost)?,
            name: row.name.into(),
            pattern: row.pattern,
            apply_to,
            priority: row.priority,
            definition: to_sound_table(&row.definition)?.encode(),
        })
    }

    fn exchange(&self, row: Exchange, out: &mut Definitions) -> Result<(), String> {
        out.exchanges.push(ExchangeDefinition {
            vhost: self.place(row.vhost)?,
            declare: ExchangeDeclare {
                name: short(row.name)?,
                kind: row.kind,
                durable: row.durable,
                auto_delete: row.auto_delete,
                internal: row.internal,
                arguments: to_sound_table(&row.arguments)?,
            },
        });
        Ok(())
    }

    fn queue(&self, row: Queue, out: &mut Definitions) -> Result<(), String> {
        let mut arguments = row.arguments;
        if let Some(kind) = row.kind.filter(|kind| kind != "classic") {
            arguments
                .entry("x-queue-type")
                .or_insert_with(|| kind.into());
        }
        out.queues.push(QueueDefinition {
            vhost: self.place(row.vhost)?,
            work: row.work_rules,
            declare: QueueDeclare {
                name: short(row.name)?,
                durable: row.durable,
                auto_delete: row.auto_delete,
                arguments: to_sound_table(&arguments)?,
                ..QueueDeclare::default()
            },
        });
        Ok(())
    }

    fn binding(&self, row: Binding, out: &mut Definitions) -> Result<(), String> {
        if row.source.is_empty() {
            // Every queue has this one.
            return Ok(());
        }
        let destination_kind = match &*row.destination_type {
            "queue" => DestinationKind::Queue,
            "exchange" => DestinationKind::Exchange,
            other => return Err(format!("'{other}' is no type of destination")),
        };
        out.bindings.push(BindingSpec {
            vhost: self.place(row.vhost)?,
            source: short(row.source)?.into(),
            destination_kind,
            destination: short(row.destination)?.into(),
            routing_key: short(row.routing_key)?.into_bytes(),
            arguments: to_sound_table(&row.arguments)?.encode(),
        });
        Ok(())
    }
}

fn short(name: String) -> Result<String, String> {
    match name.len() > NAME_MAX {
        true => Err(format!("'{name}' is longer than {NAME_MAX} bytes")),
        false => Ok(name),
    }
}

fn put_limits(
    of: LimitOf,
    subject: &Arc<str>,
    limits: &Map<String, Json>,
    out: &mut Definitions,
) -> Result<(), String> {
    for (name, value) in limits {
        let name = LimitName::parse(name).ok_or_else(|| format!("'{name}' is no limit"))?;
        let value = value
            .as_i64()
            .ok_or_else(|| format!("{} is no whole number", name.as_str()))?;
        out.limits.push(LimitSpec {
            of,
            subject: subject.clone(),
            name,
            value,
        });
    }
    Ok(())
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    rabbit_version: Option<String>,
    vhosts: Vec<Json>,
    users: Vec<Json>,
    permissions: Vec<Json>,
    topic_permissions: Vec<Json>,
    parameters: Vec<Json>,
    global_parameters: Vec<Json>,
    policies: Vec<Json>,
    exchanges: Vec<Json>,
    queues: Vec<Json>,
    bindings: Vec<Json>,
}

/// `"a,b"` in old files, `["a", "b"]` in newer ones.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    Text(String),
    List(Vec<String>),
}

impl Default for Words {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

impl Words {
    fn joined(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::List(words) => words.join(","),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    description: Option<String>,
    tags: Option<Words>,
    default_queue_type: Option<String>,
}

#[derive(Deserialize)]
struct Vhost {
    name: String,
    description: Option<String>,
    tags: Option<Words>,
    default_queue_type: Option<String>,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    limits: Json,
}

#[derive(Deserialize)]
struct User {
    name: String,
    password_hash: Option<String>,
    hashing_algorithm: Option<String>,
    password: Option<String>,
    #[serde(default)]
    tags: Words,
    #[serde(default)]
    limits: Json,
}

#[derive(Deserialize)]
struct Permission {
    vhost: Option<String>,
    user: String,
    configure: String,
    write: String,
    read: String,
}

#[derive(Deserialize)]
struct TopicPermission {
    vhost: Option<String>,
    user: String,
    exchange: String,
    write: String,
    read: String,
}

#[derive(Deserialize)]
struct Parameter {
    vhost: Option<String>,
    component: String,
    name: String,
    value: Json,
}

#[derive(Deserialize)]
struct Global {
    name: String,
    value: Json,
}

#[derive(Deserialize)]
struct Policy {
    vhost: Option<String>,
    #[serde(default)]
    name: String,
    pattern: String,
    #[serde(rename = "apply-to")]
    apply_to: Option<String>,
    definition: Map<String, Json>,
    #[serde(default)]
    priority: i32,
}

#[derive(Deserialize)]
struct Exchange {
    vhost: Option<String>,
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default = "yes")]
    durable: bool,
    #[serde(default)]
    auto_delete: bool,
    #[serde(default)]
    internal: bool,
    #[serde(default)]
    arguments: Map<String, Json>,
}

#[derive(Deserialize)]
struct Queue {
    vhost: Option<String>,
    name: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default = "yes")]
    durable: bool,
    #[serde(default)]
    auto_delete: bool,
    #[serde(default)]
    work_rules: bool,
    #[serde(default)]
    arguments: Map<String, Json>,
}

#[derive(Deserialize)]
struct Binding {
    vhost: Option<String>,
    source: String,
    destination: String,
    destination_type: String,
    #[serde(default)]
    routing_key: String,
    #[serde(default)]
    arguments: Map<String, Json>,
}

fn yes() -> bool {
    true
}
