//! Rows of users, vhosts, rights, policies, parameters and limits: written and read.
//!
//! Keeps: deleting a user or a vhost takes along what `AccessChange` says.
//! In: `apply` writes, `reader` reads.

use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Row, Sqlite, SqliteConnection};

use super::reader::name;
use super::statement;
use crate::log::batch::AccessChange;
use crate::model::*;

type Query = sqlx::query::Query<'static, Sqlite, SqliteArguments>;

pub(super) async fn define(
    conn: &mut SqliteConnection,
    change: &AccessChange,
) -> Result<(), sqlx::Error> {
    let query = match change {
        AccessChange::PutVhost(vhost) => put_vhost(vhost),
        AccessChange::DeleteVhost(vhost) => return delete_vhost(conn, vhost).await,
        AccessChange::PutUser(user) => put_user(user),
        AccessChange::DeleteUser(user) => return delete_user(conn, user).await,
        AccessChange::PutPermission(permission) => put_permission(permission),
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
            let (of, name) = (limit.of.as_str(), limit.name.as_str());
            texts(statement::LIMIT_VALUE_PUT, [of, &*limit.subject, name]).bind(limit.value)
        }
        AccessChange::DeleteLimit { of, subject, name } => texts(
            statement::LIMIT_VALUE_DELETE,
            [of.as_str(), &**subject, name.as_str()],
        ),
    };
    query.execute(conn).await.map(drop)
}

fn texts<const N: usize>(text: &'static str, values: [&str; N]) -> Query {
    let mut query = sqlx::query(text);
    for value in values {
        query = query.bind(value.to_owned());
    }
    query
}

fn put_vhost(vhost: &VhostSpec) -> Query {
    texts(
        statement::VHOST_PUT,
        [
            &*vhost.name,
            &vhost.description,
            &vhost.tags,
            &vhost.default_queue_type,
        ],
    )
}

fn put_user(user: &UserSpec) -> Query {
    texts(
        statement::USER_PUT,
        [&*user.name, &user.password_hash, &user.hashing, &user.tags],
    )
}

fn put_permission(row: &PermissionSpec) -> Query {
    texts(
        statement::PERMISSION_PUT,
        [
            &*row.vhost,
            &*row.user,
            &row.configure,
            &row.write,
            &row.read,
        ],
    )
}

fn put_policy(policy: &PolicySpec) -> Query {
    let words = [
        policy.kind.as_str(),
        &*policy.vhost,
        &*policy.name,
        &policy.pattern,
        policy.apply_to.as_str(),
    ];
    texts(statement::POLICY_PUT, words)
        .bind(policy.priority)
        .bind(policy.definition.clone())
}

async fn delete_vhost(conn: &mut SqliteConnection, vhost: &str) -> Result<(), sqlx::Error> {
    for text in [
        statement::VHOST_DELETE,
        statement::EXCHANGE_DELETE_OF_VHOST,
        statement::BINDING_DELETE_OF_VHOST,
        statement::PERMISSION_DELETE_OF_VHOST,
        statement::TOPIC_PERMISSION_DELETE_OF_VHOST,
        statement::POLICY_DELETE_OF_VHOST,
        statement::PARAMETER_DELETE_OF_VHOST,
    ] {
        texts(text, [vhost]).execute(&mut *conn).await?;
    }
    delete_limits(conn, LimitOf::Vhost, vhost).await
}

async fn delete_user(conn: &mut SqliteConnection, user: &str) -> Result<(), sqlx::Error> {
    for text in [
        statement::USER_DELETE,
        statement::PERMISSION_DELETE_OF_USER,
        statement::TOPIC_PERMISSION_DELETE_OF_USER,
    ] {
        texts(text, [user]).execute(&mut *conn).await?;
    }
    delete_limits(conn, LimitOf::User, user).await
}

async fn delete_limits(
    conn: &mut SqliteConnection,
    of: LimitOf,
    subject: &str,
) -> Result<(), sqlx::Error> {
    texts(
        statement::LIMIT_VALUE_DELETE_OF_SUBJECT,
        [of.as_str(), subject],
    )
    .execute(conn)
    .await
    .map(drop)
}

pub(super) fn vhost(row: &SqliteRow) -> Result<VhostSpec, sqlx::Error> {
    Ok(VhostSpec {
        name: name(row, 0)?,
        description: row.try_get(1)?,
        tags: row.try_get(2)?,
        default_queue_type: row.try_get(3)?,
    })
}

pub(super) fn user(row: &SqliteRow) -> Result<UserSpec, sqlx::Error> {
    Ok(UserSpec {
        name: name(row, 0)?,
        password_hash: row.try_get(1)?,
        hashing: row.try_get(2)?,
        tags: row.try_get(3)?,
    })
}

pub(super) fn permission(row: &SqliteRow) -> Result<PermissionSpec, sqlx::Error> {
    Ok(PermissionSpec {
        vhost: name(row, 0)?,
        user: name(row, 1)?,
        configure: row.try_get(2)?,
        write: row.try_get(3)?,
        read: row.try_get(4)?,
    })
}

pub(super) fn topic_permission(row: &SqliteRow) -> Result<TopicPermissionSpec, sqlx::Error> {
    Ok(TopicPermissionSpec {
        vhost: name(row, 0)?,
        user: name(row, 1)?,
        exchange: name(row, 2)?,
        write: row.try_get(3)?,
        read: row.try_get(4)?,
    })
}

pub(super) fn policy(row: &SqliteRow) -> Result<PolicySpec, sqlx::Error> {
    let kind = match row.try_get::<&str, _>(0)? {
        "operator" => PolicyKind::Operator,
        _ => PolicyKind::User,
    };
    Ok(PolicySpec {
        kind,
        vhost: name(row, 1)?,
        name: name(row, 2)?,
        pattern: row.try_get(3)?,
        apply_to: word(row, 4, ApplyTo::parse)?,
        priority: row.try_get(5)?,
        definition: row.try_get(6)?,
    })
}

pub(super) fn parameter(row: &SqliteRow) -> Result<ParameterSpec, sqlx::Error> {
    Ok(ParameterSpec {
        vhost: name(row, 0)?,
        component: name(row, 1)?,
        name: name(row, 2)?,
        value: row.try_get(3)?,
    })
}

pub(super) fn limit(row: &SqliteRow) -> Result<LimitSpec, sqlx::Error> {
    let of = match row.try_get::<&str, _>(0)? {
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

fn word<T>(row: &SqliteRow, at: usize, parse: fn(&str) -> Option<T>) -> Result<T, sqlx::Error> {
    let text: &str = row.try_get(at)?;
    parse(text).ok_or_else(|| sqlx::Error::Decode(format!("'{text}' is not known here").into()))
}
