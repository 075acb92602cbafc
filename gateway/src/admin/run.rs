//! Commands on a store, whoever brought them.
//!
//! Keeps: the answer to a change comes when the disk has it.

use store::model::*;
use store::shard::Shard;
use store::{Error, Store, password};

use super::{Answer, Command, Policy, Subject, list, messages, node};
use crate::definitions;

/// Does it, or says in words why not.
///
/// # Errors
/// What was wrong, for the operator.
pub async fn run(store: &Store, command: Command) -> Result<Answer, String> {
    let command = match command {
        Command::Node(ask) => return node::run(store, ask).await,
        Command::Messages(ask) => return messages::run(store, ask).await,
        Command::RedriveList(span) => return Ok(messages::list_redrives(store, &span)),
        Command::RedriveCancel { id } => return messages::cancel_redrive(store, id).await,
        other => other,
    };
    let (answer, told) = {
        let mut shard = store.lock();
        match answer(&mut shard, command)? {
            changed @ (Answer::Done | Answer::LeftOut(_)) => (changed, shard.on_disk()),
            listed => return Ok(listed),
        }
    };
    let stopped = |_| "the server is stopping: nobody knows whether the disk has the change".into();
    told.await.map(|()| answer).map_err(stopped)
}

fn answer(shard: &mut Shard, command: Command) -> Result<Answer, String> {
    Ok(match &command {
        Command::UserList => list::users(shard),
        Command::VhostList => list::vhosts(shard),
        Command::PermissionList(only) => list::permissions(shard, only),
        Command::TopicPermissionList(only) => list::topic_permissions(shard, only),
        Command::PolicyList { operator, vhost } => {
            list::policies(shard, kind(*operator), vhost.as_deref())
        }
        Command::ParameterList { global, vhost } => {
            list::parameters(shard, *global, vhost.as_deref())
        }
        Command::LimitList => list::limits(shard),
        Command::DefinitionsExport { vhost } => export(shard, vhost.as_deref())?,
        Command::DefinitionsImport { text, vhost } => import(shard, text, vhost.as_deref())?,
        _ => return change(shard, command).map(|()| Answer::Done),
    })
}

fn change(shard: &mut Shard, command: Command) -> Result<(), String> {
    match command {
        Command::UserAdd { .. }
        | Command::UserDelete { .. }
        | Command::UserPassword { .. }
        | Command::UserTags { .. } => user(shard, command),
        Command::PermissionSet { .. }
        | Command::PermissionClear { .. }
        | Command::TopicPermissionSet { .. }
        | Command::TopicPermissionClear { .. } => permission(shard, command),
        other => place(shard, other),
    }
}

fn user(shard: &mut Shard, command: Command) -> Result<(), String> {
    let known = |name: &str| shard.directory().users.get(name).cloned();
    let needed = |name: &str| known(name).ok_or_else(|| format!("no user '{name}'"));
    let user = match command {
        Command::UserAdd {
            name,
            password,
            tags,
        } => {
            if known(&name).is_some() {
                return Err(format!("user '{name}' exists"));
            }
            let bare = UserSpec {
                name: name.into(),
                password_hash: String::new(),
                hashing: String::new(),
                tags: tags.join(","),
            };
            with_password(bare, &password)?
        }
        Command::UserPassword { name, password } => with_password(needed(&name)?, &password)?,
        Command::UserTags { name, tags } => UserSpec {
            tags: tags.join(","),
            ..needed(&name)?
        },
        Command::UserDelete { name } => return told(shard.delete_user(&name)),
        _ => return Err("not a command about users".into()),
    };
    told(shard.put_user(user))
}

fn with_password(user: UserSpec, password: &str) -> Result<UserSpec, String> {
    if password.is_empty() {
        return Err("an empty password lets nobody in; give one".into());
    }
    Ok(UserSpec {
        password_hash: password::hash(password),
        hashing: password::SHA256.into(),
        ..user
    })
}

fn permission(shard: &mut Shard, command: Command) -> Result<(), String> {
    told(match command {
        Command::PermissionSet {
            vhost,
            user,
            configure,
            write,
            read,
        } => shard.put_permission(PermissionSpec {
            vhost: vhost.into(),
            user: user.into(),
            configure,
            write,
            read,
        }),
        Command::PermissionClear { vhost, user } => shard.delete_permission(&vhost, &user),
        Command::TopicPermissionSet {
            vhost,
            user,
            exchange,
            write,
            read,
        } => shard.put_topic_permission(TopicPermissionSpec {
            vhost: vhost.into(),
            user: user.into(),
            exchange: exchange.into(),
            write,
            read,
        }),
        Command::TopicPermissionClear {
            vhost,
            user,
            exchange,
        } => shard.delete_topic_permissions(&vhost, &user, exchange.as_deref()),
        _ => return Err("not a command about permissions".into()),
    })
}

fn place(shard: &mut Shard, command: Command) -> Result<(), String> {
    told(match command {
        Command::VhostAdd {
            name,
            description,
            tags,
            default_queue_type,
        } => {
            if shard.has_vhost(&name) {
                return Err(format!("vhost '{name}' exists"));
            }
            shard.put_vhost(VhostSpec {
                name: name.into(),
                description,
                tags: tags.join(","),
                default_queue_type,
            })
        }
        Command::VhostDelete { name } => shard.delete_vhost(&name),
        Command::PolicySet(policy) => shard.put_policy(policy_spec(policy)?),
        Command::PolicyClear {
            operator,
            vhost,
            name,
        } => shard.delete_policy(kind(operator), &vhost, &name),
        Command::ParameterSet {
            vhost,
            component,
            name,
            value,
        } => shard.put_parameter(ParameterSpec {
            vhost: vhost.into(),
            component: component.into(),
            name: name.into(),
            value: value.to_string(),
        }),
        Command::ParameterClear {
            vhost,
            component,
            name,
        } => shard.delete_parameter(&vhost, &component, &name),
        Command::LimitSet {
            subject,
            name,
            value,
        } => {
            let (of, subject) = limited(subject);
            let name = limit(&name)?;
            shard.put_limit(LimitSpec {
                of,
                subject: subject.into(),
                name,
                value,
            })
        }
        Command::LimitClear { subject, name } => {
            let (of, subject) = limited(subject);
            let name = name.as_deref().map(limit).transpose()?;
            shard.delete_limits(of, &subject, name)
        }
        _ => return Err("not a command that changes anything".into()),
    })
}

fn import(shard: &mut Shard, text: &str, vhost: Option<&str>) -> Result<Answer, String> {
    let all = definitions::read(text, vhost).map_err(|error| error.to_string())?;
    let left_out = shard.import(all).map_err(|error| error.to_string())?;
    if left_out.is_empty() {
        return Ok(Answer::Done);
    }
    let lines = left_out.iter().map(|(binding, error)| {
        format!(
            "binding from '{}' to {} '{}' in vhost '{}': {error}",
            binding.source,
            binding.destination_kind.as_str(),
            binding.destination,
            binding.vhost
        )
    });
    Ok(Answer::LeftOut(lines.collect()))
}

fn export(shard: &Shard, vhost: Option<&str>) -> Result<Answer, String> {
    if let Some(vhost) = vhost.filter(|vhost| !shard.has_vhost(vhost)) {
        return Err(format!("no vhost '{vhost}'"));
    }
    Ok(Answer::Text(definitions::write(&shard.export(vhost))))
}

fn policy_spec(policy: Policy) -> Result<PolicySpec, String> {
    let apply_to = ApplyTo::parse(&policy.apply_to).ok_or_else(|| {
        let words = ApplyTo::ALL.map(ApplyTo::as_str).join(", ");
        format!("'{}' is none of {words}", policy.apply_to)
    })?;
    Ok(PolicySpec {
        kind: kind(policy.operator),
        vhost: policy.vhost.into(),
        name: policy.name.into(),
        pattern: policy.pattern,
        apply_to,
        priority: policy.priority,
        definition: definitions::to_table(&policy.definition)?.encode(),
    })
}

fn kind(operator: bool) -> PolicyKind {
    match operator {
        true => PolicyKind::Operator,
        false => PolicyKind::User,
    }
}

fn limited(subject: Subject) -> (LimitOf, String) {
    match subject {
        Subject::Vhost(name) => (LimitOf::Vhost, name),
        Subject::User(name) => (LimitOf::User, name),
    }
}

fn limit(name: &str) -> Result<LimitName, String> {
    LimitName::parse(name).ok_or_else(|| {
        format!("'{name}' is no limit; there are max-connections, max-queues and max-channels")
    })
}

fn told(done: Result<(), Error>) -> Result<(), String> {
    done.map_err(|error| error.to_string())
}
