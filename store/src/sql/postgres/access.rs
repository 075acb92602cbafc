//! Rows of users, vhosts, rights, policies, parameters and limits: written and read.
//!
//! Keeps: deleting a user or a vhost takes along what `AccessChange` says.
//! In: `apply` writes, `reader` reads.

use tokio_postgres::Row;

use super::session::Step;
use super::statement;
use super::value::{Decoded, Value, Words, name, text, word};
use crate::log::batch::AccessChange;
use crate::model::*;

pub(super) fn define<'a>(change: &'a AccessChange, steps: &mut Vec<Step<'a>>) {
    let step = match change {
        AccessChange::PutVhost(vhost) => texts(
            statement::VHOST_PUT,
            [
                &*vhost.name,
                &vhost.description,
                &vhost.tags,
                &vhost.default_queue_type,
            ],
        ),
        AccessChange::DeleteVhost(vhost) => return delete_vhost(vhost, steps),
        AccessChange::PutUser(user) => texts(
            statement::USER_PUT,
            [&*user.name, &user.password_hash, &user.hashing, &user.tags],
        ),
        AccessChange::DeleteUser(user) => return delete_user(user, steps),
        AccessChange::PutPermission(row) => texts(
            statement::PERMISSION_PUT,
            [
                &*row.vhost,
                &*row.user,
                &row.configure,
                &row.write,
                &row.read,
            ],
        ),
        AccessChange::DeletePermission { vhost, user } => {
            texts(statement::PERMISSION_DELETE, [&**vhost, &**user])
        }
        AccessChange::PutTopicPermission(row) => texts(
            statement::TOPIC_PERMISSION_PUT,
            [
                &*row.vhost,
                &*row.user,
                &*row.exchange,
                &row.write,
                &row.read,
            ],
        ),
        AccessChange::DeleteTopicPermission {
            vhost,
            user,
            exchange,
        } => texts(
            statement::TOPIC_PERMISSION_DELETE,
            [&**vhost, &**user, &**exchange],
        ),
        AccessChange::PutPolicy(policy) => put_policy(policy),
        AccessChange::DeletePolicy { kind, vhost, name } => {
            texts(statement::POLICY_DELETE, [kind.as_str(), &**vhost, &**name])
        }
        AccessChange::PutParameter(row) => texts(
            statement::PARAMETER_PUT,
            [&*row.vhost, &*row.component, &*row.name, &row.value],
        ),
        AccessChange::DeleteParameter {
            vhost,
            component,
            name,
        } => texts(
            statement::PARAMETER_DELETE,
            [&**vhost, &**component, &**name],
        ),
        AccessChange::PutLimit(limit) => {
            let mut values = words([limit.of.as_str(), &*limit.subject, limit.name.as_str()]);
            values.push(Box::new(limit.value));
            Step::new(statement::LIMIT_VALUE_PUT, values)
        }
        AccessChange::DeleteLimit { of, subject, name } => texts(
            statement::LIMIT_VALUE_DELETE,
            [of.as_str(), &**subject, name.as_str()],
        ),
    };
    steps.push(step);
}

fn words<const N: usize>(values: [&str; N]) -> Vec<Value<'_>> {
    let boxed = values
        .into_iter()
        .map(|value| Box::new(Words(value)) as Value<'_>);
    boxed.collect()
}

pub(super) fn texts<'a, const N: usize>(sql: &'static str, values: [&'a str; N]) -> Step<'a> {
    Step::new(sql, words(values))
}

fn put_policy(policy: &PolicySpec) -> Step<'_> {
    let mut values = words([
        policy.kind.as_str(),
        &*policy.vhost,
        &*policy.name,
        &policy.pattern,
        policy.apply_to.as_str(),
    ]);
    values.push(Box::new(i64::from(policy.priority)));
    values.push(Box::new(&*policy.definition));
    Step::new(statement::POLICY_PUT, values)
}

fn delete_vhost<'a>(vhost: &'a str, steps: &mut Vec<Step<'a>>) {
    for sql in [
        statement::VHOST_DELETE,
        statement::EXCHANGE_DELETE_OF_VHOST,
        statement::BINDING_DELETE_OF_VHOST,
        statement::PERMISSION_DELETE_OF_VHOST,
        statement::TOPIC_PERMISSION_DELETE_OF_VHOST,
        statement::POLICY_DELETE_OF_VHOST,
        statement::PARAMETER_DELETE_OF_VHOST,
    ] {
        steps.push(texts(sql, [vhost]));
    }
    steps.push(delete_limits(LimitOf::Vhost, vhost));
}

fn delete_user<'a>(user: &'a str, steps: &mut Vec<Step<'a>>) {
    for sql in [
        statement::USER_DELETE,
        statement::PERMISSION_DELETE_OF_USER,
        statement::TOPIC_PERMISSION_DELETE_OF_USER,
    ] {
        steps.push(texts(sql, [user]));
    }
    steps.push(delete_limits(LimitOf::User, user));
}

fn delete_limits(of: LimitOf, subject: &str) -> Step<'_> {
    texts(
        statement::LIMIT_VALUE_DELETE_OF_SUBJECT,
        [of.as_str(), subject],
    )
}

pub(super) fn vhost(row: &Row) -> Decoded<VhostSpec> {
    Ok(VhostSpec {
        name: name(row, 0)?,
        description: text(row, 1)?,
        tags: text(row, 2)?,
        default_queue_type: text(row, 3)?,
    })
}

pub(super) fn user(row: &Row) -> Decoded<UserSpec> {
    Ok(UserSpec {
        name: name(row, 0)?,
        password_hash: text(row, 1)?,
        hashing: text(row, 2)?,
        tags: text(row, 3)?,
    })
}

pub(super) fn permission(row: &Row) -> Decoded<PermissionSpec> {
    Ok(PermissionSpec {
        vhost: name(row, 0)?,
        user: name(row, 1)?,
        configure: text(row, 2)?,
        write: text(row, 3)?,
        read: text(row, 4)?,
    })
}

pub(super) fn topic_permission(row: &Row) -> Decoded<TopicPermissionSpec> {
    Ok(TopicPermissionSpec {
        vhost: name(row, 0)?,
        user: name(row, 1)?,
        exchange: name(row, 2)?,
        write: text(row, 3)?,
        read: text(row, 4)?,
    })
}

pub(super) fn policy(row: &Row) -> Decoded<PolicySpec> {
    let kind = match row.try_get::<_, &str>(0)? {
        "operator" => PolicyKind::Operator,
        _ => PolicyKind::User,
    };
    Ok(PolicySpec {
        kind,
        vhost: name(row, 1)?,
        name: name(row, 2)?,
        pattern: text(row, 3)?,
        apply_to: word(row, 4, ApplyTo::parse)?,
        priority: row.try_get::<_, i64>(5)? as i32,
        definition: row.try_get(6)?,
    })
}

pub(super) fn parameter(row: &Row) -> Decoded<ParameterSpec> {
    Ok(ParameterSpec {
        vhost: name(row, 0)?,
        component: name(row, 1)?,
        name: name(row, 2)?,
        value: text(row, 3)?,
    })
}

pub(super) fn limit(row: &Row) -> Decoded<LimitSpec> {
    let of = match row.try_get::<_, &str>(0)? {
        "user" => LimitOf::User,
        _ => LimitOf::Vhost,
    };
    Ok(LimitSpec {
        of,
        subject: name(row, 1)?,
        name: word(row, 2, LimitName::parse)?,
        value: row.try_get(3)?,
    })
}
